package vm

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
)

// pause stops a running guest's processors, and the record says why. One whose
// VMM forgets its vsock over a pause by the API is paused by stopping the
// process.
func (v *machine) pause(ctx context.Context, r *run, reason string) error {
	var err error
	if v.losesVsock() {
		err = r.process.Signal(unix.SIGSTOP)
	} else {
		err = r.process.Client().PatchVM(ctx, firecracker.Paused)
	}
	if err != nil {
		return fmt.Errorf("cannot pause VM %s: %w", v.record().Name, err)
	}
	return v.become(api.StatePaused, reason)
}

// resume lets a paused guest run on. The way back from either kind of pause is
// tried, since an older daemon may have chosen the other; both are harmless.
func (v *machine) resume(ctx context.Context, r *run) error {
	if err := r.process.Signal(unix.SIGCONT); err != nil {
		return fmt.Errorf("cannot resume VM %s: %w", v.record().Name, err)
	}
	if !v.losesVsock() {
		if err := r.process.Client().PatchVM(ctx, firecracker.Resumed); err != nil {
			return fmt.Errorf("cannot resume VM %s: %w", v.record().Name, err)
		}
	}
	if err := v.become(api.StateRunning, ""); err != nil {
		return err
	}
	if r.isReady() {
		v.resetClock("the VM was paused")
	} else {
		r.watch(v.configure) // a daemon that found it paused could not reach it
	}
	return nil
}

func (v *machine) losesVsock() bool {
	rec := v.record()
	if rec.VMM == nil {
		return false
	}
	version, err := firecracker.ParseVersion(rec.VMM.Version)
	return err == nil && version.LosesVsockOnResume()
}
