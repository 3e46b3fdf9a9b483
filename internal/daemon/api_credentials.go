package daemon

import "net/http"

// postCredentials gives a VM the user's credentials as they are now.
func (d *Daemon) postCredentials(w http.ResponseWriter, r *http.Request) error {
	synced, err := d.VMs.SyncCredentials(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	d.Log.Info("credentials", "vm", r.PathValue("vm"), "given", synced.Given)
	return answer(w, synced)
}
