package vm

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/progress"
)

// pause stops a running guest's processors, and the record says why. The record
// comes first: a daemon that finds it pauses the guest, whether or not the last
// one came to that. On a disk that is full already there is no room for it, and
// the guest is stopped all the same.
func (v *machine) pause(ctx context.Context, r *run, reason string) error {
	s := v.m.steps(progress.Discard)
	err := s.do(ctx, "pause.record", func() error { return v.become(api.StatePaused, reason) })
	if err != nil {
		return err
	}
	err = s.do(ctx, "pause.vmm", func() error { return v.halt(ctx, r) })
	if err != nil {
		return errors.Join(err, v.become(api.StateRunning, ""))
	}
	return nil
}

// halt pauses the VMM; one that is paused already stays so. One that forgets its
// vsock over a pause by the API is paused by stopping the process. A VMM that
// does not answer may do it later: it counts as halted.
func (v *machine) halt(ctx context.Context, r *run) error {
	r.halted = true
	var err error
	if v.losesVsock() {
		err = r.process.Signal(unix.SIGSTOP)
	} else {
		err = r.process.Client().PatchVM(ctx, firecracker.Paused)
	}
	if err != nil {
		return fmt.Errorf("cannot pause VM %s: %w", v.record().Name, err)
	}
	return nil
}

// resume lets a paused guest run on.
func (v *machine) resume(ctx context.Context, r *run) error {
	s := v.m.steps(progress.Discard)
	err := s.do(ctx, "resume.vmm", func() error { return v.unhalt(ctx, r) })
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // it runs, whoever still wants that
	err = s.do(ctx, "resume.record", func() error { return v.become(api.StateRunning, "") })
	if err != nil {
		return err
	}
	if r.isReady() {
		v.resetClock("the VM was paused")
	} else {
		r.watch(v.configure) // a daemon that found it paused could not reach it
	}
	return nil
}

// unhalt lets the VMM run. The way back from either kind of pause is tried,
// since an older daemon may have chosen the other; both are harmless.
func (v *machine) unhalt(ctx context.Context, r *run) error {
	if err := r.process.Signal(unix.SIGCONT); err != nil {
		return fmt.Errorf("cannot resume VM %s: %w", v.record().Name, err)
	}
	if !v.losesVsock() {
		if err := r.process.Client().PatchVM(ctx, firecracker.Resumed); err != nil {
			return fmt.Errorf("cannot resume VM %s: %w", v.record().Name, err)
		}
	}
	r.halted = false
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
