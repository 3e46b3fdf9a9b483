package daemon

import (
	"context"
	"net"
	"net/http"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// postFiles turns the connection into one that a tree of files goes over. The
// client is the one that trusts nothing of what comes.
func (d *Daemon) postFiles(w http.ResponseWriter, r *http.Request) error {
	var req api.FilesRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	guest, err := d.openFiles(r.Context(), r.PathValue("vm"), req)
	if err != nil {
		return err
	}
	client, err := upgrade(w, r, api.UpgradeFiles)
	if err != nil {
		guest.Close()
		return err
	}
	d.stream(client, func() { splice(client, guest) })
	return nil
}

func (d *Daemon) openFiles(ctx context.Context, vm string, req api.FilesRequest) (net.Conn, error) {
	switch {
	case req.Into != "" && req.From == "":
		return d.VMs.Put(ctx, vm, proto.Put{Path: req.Into, Base: req.Name})
	case req.From != "" && req.Into == "":
		return d.VMs.Get(ctx, vm, proto.Get{Path: req.From})
	}
	return nil, &api.Error{Kind: api.KindBadRequest, Message: "a copy goes either into a VM or comes from it"}
}
