package daemon

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/progress"
)

func (d *Daemon) getVMs(w http.ResponseWriter, _ *http.Request) error {
	list := d.VMs.List()
	if list == nil {
		list = []api.VM{}
	}
	return answer(w, list)
}

func (d *Daemon) getVM(w http.ResponseWriter, r *http.Request) error {
	v, err := d.VMs.Settled(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	return answer(w, v)
}

// postVMs makes a VM. One that goes with its session is deleted here, when the
// client closes the stream that it began with: also one that was killed.
func (d *Daemon) postVMs(w http.ResponseWriter, r *http.Request) error {
	var req api.CreateRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("vm create", "name", req.Name)
	v, err := d.VMs.Run(ctx, req, o.Report)
	if err != nil {
		d.fail(o, err)
		return nil
	}
	o.Result(api.Result{VM: &v})
	if v.Remove {
		<-r.Context().Done()
		d.endSession(v.ID)
	}
	return nil
}

// endSession deletes the VM of a session that is over, unless the daemon ends
// too: then the next one does it.
func (d *Daemon) endSession(id string) {
	if d.life.Err() != nil {
		return
	}
	v, err := d.VMs.Show(id)
	if err != nil {
		return // the client deleted it
	}
	if len(v.Workspaces) > 0 {
		// Its client went without saving: what is in it may be nowhere else.
		if err := d.VMs.Keep(id); err != nil {
			d.Log.Error("cannot keep the VM of a session that is over", "vm", id, "error", err)
		}
		return
	}
	defer d.Sessions.Sweep()
	if _, err := d.VMs.Delete(context.Background(), id, progress.Discard); err != nil {
		d.Log.Error("cannot delete the VM of a session that is over", "vm", id, "error", err)
	}
}

func (d *Daemon) fail(o *op.Op, err error) {
	o.Fail(kindOf(err))
}

// change runs an operation that ends with a VM.
func (d *Daemon) change(w http.ResponseWriter, r *http.Request, what string, do func(ctx context.Context, o *op.Op) (api.VM, error)) {
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("vm "+what, "vm", r.PathValue("vm"))
	v, err := do(ctx, o)
	if err != nil {
		d.fail(o, err)
		return
	}
	o.Result(api.Result{VM: &v})
}

func (d *Daemon) postStart(w http.ResponseWriter, r *http.Request) error {
	var req api.StartRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	d.change(w, r, "start", func(ctx context.Context, o *op.Op) (api.VM, error) {
		return d.VMs.Start(ctx, r.PathValue("vm"), req.Wait, o.Report)
	})
	return nil
}

func (d *Daemon) postStop(w http.ResponseWriter, r *http.Request) error {
	var req api.StopRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	d.change(w, r, "stop", func(ctx context.Context, o *op.Op) (api.VM, error) {
		return d.VMs.Stop(ctx, r.PathValue("vm"), req, o.Report)
	})
	return nil
}

func (d *Daemon) postRestart(w http.ResponseWriter, r *http.Request) error {
	var req api.StartRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	d.change(w, r, "restart", func(ctx context.Context, o *op.Op) (api.VM, error) {
		return d.VMs.Restart(ctx, r.PathValue("vm"), req.Wait, o.Report)
	})
	return nil
}

func (d *Daemon) postDelete(w http.ResponseWriter, r *http.Request) error {
	var req api.DeleteRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	if !req.Force {
		if err := d.mayHoldWork(r.PathValue("vm")); err != nil {
			return err
		}
	}
	defer d.Sessions.Sweep()
	d.change(w, r, "delete", func(ctx context.Context, o *op.Op) (api.VM, error) {
		return d.VMs.Delete(ctx, r.PathValue("vm"), o.Report)
	})
	return nil
}

func (d *Daemon) postPrune(w http.ResponseWriter, r *http.Request) error {
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("vm prune")
	defer d.Sessions.Sweep()
	pruned, err := d.VMs.Prune(ctx, o.Report)
	if err != nil {
		d.fail(o, err)
		return nil
	}
	o.Result(api.Result{Pruned: pruned})
	return nil
}

// postExec turns the connection into a command's.
func (d *Daemon) postExec(w http.ResponseWriter, r *http.Request) error {
	var req api.ExecRequest
	if err := read(w, r, &req); err != nil {
		return err
	}
	guest, err := d.VMs.Exec(r.Context(), r.PathValue("vm"), req.Wait, proto.Exec{
		Argv: req.Argv, Env: req.Env, Cwd: req.Cwd, TTY: req.TTY, Rows: req.Rows, Cols: req.Cols, Container: true,
	})
	if err != nil {
		return err
	}
	client, err := upgrade(w, r, api.UpgradeExec)
	if err != nil {
		guest.Close()
		return err
	}
	d.stream(client, func() {
		if _, err := host.Relay(client, guest); err != nil {
			d.Log.Info("command ended early", "vm", r.PathValue("vm"), "error", err)
		}
	})
	return nil
}

func (d *Daemon) getSSH(w http.ResponseWriter, r *http.Request) error {
	keys, err := d.VMs.HostKeys(r.PathValue("vm"))
	if err != nil {
		return err
	}
	return answer(w, api.SSHInfo{User: "root", KeyPath: d.SSHKey, HostKeys: keys})
}

// postSSH turns the connection into one to the guest's SSH server.
func (d *Daemon) postSSH(w http.ResponseWriter, r *http.Request) error {
	guest, err := d.VMs.SSH(r.Context(), r.PathValue("vm"))
	if err != nil {
		return err
	}
	client, err := upgrade(w, r, api.UpgradeSSH)
	if err != nil {
		guest.Close()
		return err
	}
	d.stream(client, func() { splice(client, guest) })
	return nil
}

// getLogs sends a VM's log, a line of JSON each.
func (d *Daemon) getLogs(w http.ResponseWriter, r *http.Request) error {
	name, follow := r.PathValue("vm"), r.URL.Query().Get("follow") != ""
	if _, err := d.VMs.Show(name); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	control := http.NewResponseController(w)
	err := d.VMs.Logs(r.Context(), name, follow, func(line api.LogLine) error {
		if err := lines.Encode(line); err != nil {
			return err
		}
		return control.Flush()
	})
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // bangerd ends, and not the log: it must not look whole
	}
	return err
}
