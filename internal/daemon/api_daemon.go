package daemon

import (
	"encoding/json"
	"net/http"
	"os"
	"runtime"

	"github.com/banger-vm/banger/api"
)

func answerError(w http.ResponseWriter, told *api.Error) { _ = json.NewEncoder(w).Encode(told) }

func (d *Daemon) getStatus(w http.ResponseWriter, _ *http.Request) error {
	all := d.VMs.List()
	running := 0
	for _, v := range all {
		if v.State == api.StateRunning {
			running++
		}
	}
	return answer(w, api.DaemonStatus{
		Version: api.Version, PID: os.Getpid(), Started: d.started,
		Socket: d.Socket, Log: d.LogPath, VMs: len(all), Running: running,
		Goroutines: runtime.NumGoroutine(),
	})
}

func (d *Daemon) getDoctor(w http.ResponseWriter, r *http.Request) error {
	return answer(w, d.Doctor(r.Context()))
}

func (d *Daemon) postDoctorFix(w http.ResponseWriter, r *http.Request) error {
	fixed := d.DoctorFix(r.Context())
	d.Log.Info("doctor", "done", fixed.Done, "failed", fixed.Failed)
	return answer(w, fixed)
}

// postShutdown answers first and ends then; VMs run on.
func (d *Daemon) postShutdown(w http.ResponseWriter, _ *http.Request) error {
	err := answer(w, struct{}{})
	_ = http.NewResponseController(w).Flush()
	d.stop(errShutdown)
	return err
}
