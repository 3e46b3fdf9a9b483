package daemon

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/banger-vm/banger/api"
)

func (d *Daemon) getPorts(w http.ResponseWriter, r *http.Request) error {
	ports, err := d.VMs.Ports(r.PathValue("vm"))
	if err != nil {
		return err
	}
	if ports == nil {
		ports = []api.Port{}
	}
	return answer(w, ports)
}

func (d *Daemon) postPorts(w http.ResponseWriter, r *http.Request) error {
	var req api.Port
	if err := read(w, r, &req); err != nil {
		return err
	}
	added, err := d.VMs.AddPort(r.Context(), r.PathValue("vm"), req)
	if err != nil {
		return err
	}
	d.Log.Info("port add", "vm", r.PathValue("vm"), "host", added.Host, "guest", added.Guest)
	return answer(w, added)
}

func (d *Daemon) deletePort(w http.ResponseWriter, r *http.Request) error {
	number, err := strconv.Atoi(r.PathValue("port"))
	if err != nil {
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("%q is no port", r.PathValue("port"))}
	}
	if err := d.VMs.RemovePort(r.Context(), r.PathValue("vm"), number); err != nil {
		return err
	}
	d.Log.Info("port rm", "vm", r.PathValue("vm"), "host", number)
	return answer(w, struct{}{})
}
