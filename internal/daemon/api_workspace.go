package daemon

import (
	"net/http"
	"path/filepath"

	"github.com/banger-vm/banger/api"
)

// postWorkspace turns the connection into one to the guest's workspaces. What
// they say to each other is the client's and the agent's affair: the daemon
// reads no repository, which is the user's.
func (d *Daemon) postWorkspace(w http.ResponseWriter, r *http.Request) error {
	guest, err := d.VMs.Workspace(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	client, err := upgrade(w, r, api.UpgradeWorkspace)
	if err != nil {
		guest.Close()
		return err
	}
	d.stream(client, func() { splice(client, guest) })
	return nil
}

// postWorkspaces notes a workspace that is about to be in a VM.
func (d *Daemon) postWorkspaces(w http.ResponseWriter, r *http.Request) error {
	var req api.Workspace
	if err := read(w, r, &req); err != nil {
		return err
	}
	if !filepath.IsAbs(req.Guest) || filepath.Clean(req.Guest) != req.Guest || req.Guest == "/" {
		return &api.Error{Kind: api.KindBadRequest, Message: "a workspace's place in the guest is an absolute path"}
	}
	if err := d.VMs.AddWorkspace(r.PathValue("vm"), req); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// mayHoldWork refuses to delete what may be nowhere else. Whether it is, the
// client knows, which has seen the repository that it came from.
func (d *Daemon) mayHoldWork(vm string) error {
	v, err := d.VMs.Show(vm)
	if err != nil || len(v.Workspaces) == 0 {
		return nil // whether there was such a VM, the deletion says
	}
	return &api.Error{Kind: api.KindWrongState, Message: "VM " + v.Name + " has a workspace, " + v.Workspaces[0].Guest + ", whose work may not have come back",
		Hint: "`banger vm delete " + v.Name + "` looks; for other programs, force says that it is meant"}
}
