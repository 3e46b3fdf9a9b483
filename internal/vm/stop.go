package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/progress"
)

// stopTimeout is how long a guest's init may take to go down unless the
// request says otherwise.
const stopTimeout = 90 * time.Second

// Stop lets the guest's init shut its services down, and ends the VMM when the
// kernel has said its last word, or when the time is over. A VM that does not
// run is left as it is.
func (m *Manager) Stop(ctx context.Context, nameOrID string, req api.StopRequest, report progress.Func) (api.VM, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.VM{}, err
	}
	end, err := v.beginAfter(ctx)
	if err != nil {
		return api.VM{}, err
	}
	defer end()
	if err := v.stop(ctx, req, report); err != nil {
		return api.VM{}, err
	}
	return v.describe(), nil
}

// Restart stops and starts a VM; one that does not run is only started.
func (m *Manager) Restart(ctx context.Context, nameOrID string, wait api.Wait, report progress.Func) (api.VM, error) {
	if _, err := m.Stop(ctx, nameOrID, api.StopRequest{}, report); err != nil {
		return api.VM{}, err
	}
	return m.Start(ctx, nameOrID, wait, report)
}

// stop is Stop for one who holds the VM's turn.
func (v *machine) stop(ctx context.Context, req api.StopRequest, report progress.Func) error {
	r := v.running()
	if r == nil {
		return errors.Join(v.endLost(ctx), v.stayDown())
	}
	if (v.record().State == api.StatePaused || r.halted) && !req.Force {
		if err := v.resumeToStop(ctx, r); err != nil {
			return err
		}
	}
	defer v.setStep("")
	s := v.m.steps(v.follow(report))
	err := s.do(ctx, "stop.record", func() error { return v.become(api.StateStopping, "") })
	if r.over() { // by itself, and its record says how, or is about to
		return errors.Join(v.clearedAway(ctx, r), v.stayDown())
	}
	if err != nil {
		return err
	}
	var failing string
	err = s.do(ctx, "stop.shutdown", func() error {
		failing, err = v.shutDown(ctx, r, req)
		return err
	})
	if err != nil {
		return errors.Join(err, v.keepRunning(r))
	}
	if failing == "" {
		return nil
	}
	// From here on the stop can't be taken back.
	ctx = context.WithoutCancel(ctx)
	return s.do(ctx, "stop.kill", func() error {
		err := v.become(api.StateStopping, failing)
		if r.over() { // by itself meanwhile
			return v.clearedAway(ctx, r)
		}
		return errors.Join(err, v.kill(ctx, r))
	})
}

// resumeToStop lets a paused guest run on, so that it can shut down.
func (v *machine) resumeToStop(ctx context.Context, r *run) error {
	limited, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	err := v.resume(limited, r)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return &api.Error{Kind: api.KindInternal, Message: err.Error(), Hint: fmt.Sprintf("banger vm stop --force %s ends it as a power cut would", v.record().Name)}
}

// endLost ends a VM that is to run and that this daemon could not take up:
// nobody watches what there still is of it.
func (v *machine) endLost(ctx context.Context) error {
	switch v.record().State {
	case api.StateRunning, api.StatePaused, api.StateStopping:
	default:
		return nil
	}
	if err := errors.Join(v.sweep(ctx), v.clearRunDir()); err != nil {
		return err
	}
	return v.insist(func(r *Record) error {
		r.VMM = nil
		return transition(r, api.StateStopped, "it was stopped by force: bangerd had lost it")
	})
}

// stayDown takes back the reboot that a guest asked for and has not got yet.
func (v *machine) stayDown() error {
	if !v.record().Restart {
		return nil
	}
	return v.change(func(r *Record) error {
		r.Restart, r.Reason = false, "it was stopped while its guest restarted"
		return nil
	})
}

// lostAnswer is far more than a guest takes to go down that took its answer to
// the request along.
const lostAnswer = 2 * time.Second

// shutDown asks the guest to go down and waits for it. failing says why it must be
// killed instead.
func (v *machine) shutDown(ctx context.Context, r *run, req api.StopRequest) (failing string, err error) {
	switch {
	case req.Force:
		return "it was stopped by force", nil
	case !r.isReady():
		return "it was stopped by force: its guest's agent was not up", nil
	}
	patience := or(req.Timeout, stopTimeout)
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	failing = fmt.Sprintf("its guest did not shut down within %v", patience)
	if err := r.agent.Shutdown(limited, proto.Shutdown{Reason: proto.ReasonPoweroff}); err != nil && limited.Err() == nil {
		v.log.add("daemon", err.Error())
		failing = "it was stopped by force: its guest's agent did not answer"
		limited, cancel = context.WithTimeout(limited, lostAnswer)
		defer cancel()
	}
	select {
	case <-r.settled:
		return "", nil
	case <-limited.Done():
		return failing, context.Cause(ctx)
	}
}

// keepRunning takes back a stop that was interrupted, unless it is over by now: if
// the guest goes down later all the same, its last word says so.
func (v *machine) keepRunning(r *run) error {
	if !r.over() {
		return v.become(api.StateRunning, "its stop was interrupted")
	}
	return v.clearedAway(context.Background(), r)
}

// clearedAway waits for the end of a VMM that is over to be dealt with.
func (v *machine) clearedAway(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	return v.awaitSettled(ctx, r)
}

// kill ends the VMM as a power cut would and waits until that is settled.
func (v *machine) kill(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, killTimeout)
	defer cancel()
	if err := r.process.Kill(ctx); err != nil {
		return err
	}
	return v.awaitSettled(ctx, r)
}

// awaitSettled waits until what a VMM left that has ended is cleared away.
func (v *machine) awaitSettled(ctx context.Context, r *run) error {
	select {
	case <-r.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot clear away after VM %s in time: %w", v.record().Name, context.Cause(ctx))
	}
}

// Delete removes a VM and all that it has. Its guest is not shut down, since
// its disk goes anyway. A VM that this daemon knows to be deleted, by this call
// said again or by another one, is no error; a name that no VM ever had is.
func (m *Manager) Delete(ctx context.Context, nameOrID string, report progress.Func) (api.VM, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		if was, ok := m.deletedVM(nameOrID); ok {
			return was, nil
		}
		return api.VM{}, err
	}
	end, err := v.beginAfter(ctx)
	if err != nil {
		return api.VM{}, err
	}
	defer end()
	was := v.describe()
	if m.isForgotten(was.ID) {
		return was, nil // by another delete, which had the turn
	}
	return was, v.delete(ctx, report)
}

// delete is Delete for one who holds the VM's turn. It can be said again after
// it failed half-way, and it finishes also when its client goes.
func (v *machine) delete(ctx context.Context, report progress.Func) error {
	ctx = context.WithoutCancel(ctx)
	defer v.setStep("")
	s := v.m.steps(v.follow(report))
	err := s.do(ctx, "delete.record", func() error { return v.become(api.StateDeleting, "") })
	if err != nil {
		return err
	}
	err = s.do(ctx, "delete.kill", func() error {
		if r := v.running(); r != nil {
			return v.kill(ctx, r)
		}
		return v.sweep(ctx)
	})
	if err != nil {
		return err
	}
	return s.do(ctx, "delete.directory", v.erase)
}

// sweep ends what still runs of a VM that has no run, and takes its network
// away.
func (v *machine) sweep(ctx context.Context) error {
	id := v.record().ID
	return errors.Join(firecracker.Sweep(ctx, v.m.runDir(id)), v.m.detach(ctx, id))
}

// Prune deletes every VM that does not run and gives their names.
func (m *Manager) Prune(ctx context.Context, report progress.Func) ([]string, error) {
	var pruned []string
	var errs []error
	for _, v := range m.all() {
		gone, err := v.prune(ctx, report)
		if gone {
			pruned = append(pruned, v.record().Name)
		}
		errs = append(errs, err)
	}
	return pruned, errors.Join(errs...)
}

func (v *machine) prune(ctx context.Context, report progress.Func) (bool, error) {
	end, err := v.begin(ctx)
	if err != nil {
		return false, err
	}
	defer end()
	r := v.record()
	if r.State != api.StateStopped && r.State != api.StateFailed {
		return false, nil
	}
	if len(r.Workspaces) > 0 {
		report(progress.Event{Warning: true, Detail: fmt.Sprintf("%s was kept: it may hold work that has not come back from its workspace; `banger vm delete %s` looks", r.Name, r.Name)})
		return false, nil
	}
	err = v.delete(ctx, report)
	return err == nil, err
}
