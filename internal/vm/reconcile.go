package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/proc"
	"github.com/banger-vm/banger/internal/progress"
)

// seen is what a new daemon finds of a VM.
type seen struct {
	alive     bool // the recorded VMM runs and serves its API socket
	otherBoot bool // the record was made before the host's last restart
}

// found is a VM that a new daemon has looked at.
type found struct {
	*machine
	seen
	process *firecracker.Process // nil unless it is alive
}

// action is what a new daemon does with a VM.
type action string

const (
	actKeep    action = "keep"    // nothing: it does not run and is well
	actDiscard action = "discard" // its create never ended
	actDelete  action = "delete"  // its delete never ended, or its session is over
	actEnd     action = "end"     // its start never ended: it does not run now
	actAdopt   action = "adopt"   // it runs
	actSettle  action = "settle"  // it ran, and does no more
	actRestart action = "restart" // its guest asked for a reboot
)

// decide says what is to be done with a VM that the last daemon left so. It
// only decides.
func decide(r Record, s seen) action {
	switch {
	case !r.Provisioned || r.Run:
		return actDiscard
	case r.State == api.StateDeleting:
		return actDelete
	case r.Remove && len(r.Workspaces) == 0:
		// The session belonged to the last daemon's client, whose connection
		// ended with that daemon. A workspace may hold work: it is kept.
		return actDelete
	case r.State == api.StateStarting:
		return actEnd
	case r.State == api.StateRunning || r.State == api.StatePaused || r.State == api.StateStopping:
		if s.alive {
			return actAdopt
		}
		return actSettle
	case r.State == api.StateStopped && r.Restart:
		return actRestart
	default:
		return actKeep
	}
}

// Reconcile reads every VM's directory, adopts what runs and cleans what is
// left over. What can't be trusted is set aside and told about, and the other VMs
// work. What the host does not give out ends it before anything is done to a VM:
// without a record nobody knows whose a VMM, a tap and an address are.
func (m *Manager) Reconcile(ctx context.Context) error {
	if err := os.MkdirAll(m.StateDir, 0o700); err != nil {
		return fmt.Errorf("cannot make the directory of the VMs: %w", err)
	}
	if err := os.MkdirAll(m.RuntimeDir, 0o711); err != nil {
		return fmt.Errorf("cannot make the runtime directory of the VMs: %w", err)
	}
	entries, err := os.ReadDir(m.StateDir)
	if err != nil {
		return fmt.Errorf("cannot read the directory of the VMs: %w", err)
	}
	var known []*machine
	for _, e := range entries {
		if !idForm.MatchString(e.Name()) {
			continue
		}
		v, err := m.read(e.Name())
		if errors.Is(err, errUnread) {
			return m.unknown(e.Name(), err)
		}
		if err != nil {
			m.Log.Error("a VM is set aside", "directory", m.dir(e.Name()), "error", err)
			continue
		}
		if v != nil {
			known = append(known, v)
		}
	}
	var looked []found
	for _, v := range known {
		f, err := v.look(ctx)
		if err != nil {
			return m.unknown(v.record().ID, err)
		}
		looked = append(looked, f)
	}
	// The network first and whole: what runs must not lose its tap.
	if err := m.reattach(ctx, looked); err != nil {
		m.Log.Error("cannot restore the network of running VMs", "error", err)
	}
	for _, f := range looked {
		if err := f.recover(ctx); err != nil {
			m.Log.Error("cannot recover a VM", "vm", f.record().Name, "error", err)
		}
	}
	m.sweepOrphans(ctx)
	return nil
}

// read takes a VM up from its directory; nil means there was nothing of it.
func (m *Manager) read(id string) (*machine, error) {
	r, err := readRecord(m.dir(id))
	if errors.Is(err, errNoRecord) && !m.mayHaveDisk(id) {
		m.Log.Info("removes what there is of a VM without record and disk", "directory", m.dir(id))
		return nil, os.RemoveAll(m.dir(id))
	}
	if errors.Is(err, errUnread) {
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(err, m.setAside(id))
	}
	v := m.newMachine(r)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vms[id] = v
	return v, nil
}

// unknown is what a person is told whose bangerd does not start, since it can't tell how
// one VM is.
func (m *Manager) unknown(id string, err error) error {
	return &api.Error{
		Kind:    api.KindHost,
		Message: fmt.Sprintf("cannot take up the VM in %s: %v", m.dir(id), err),
		Hint: fmt.Sprintf("nothing was done to any VM, and those that run run on; see what the host's disk and its kernel's log say, and try again. "+
			"Where a file stays lost, move the directory out of %s: bangerd starts without that VM then, and ends it", m.StateDir),
	}
}

// mayHaveDisk says whether a VM's disk is in its directory, as far as can be seen.
func (m *Manager) mayHaveDisk(id string) bool {
	for _, name := range diskNames {
		if _, err := os.Lstat(filepath.Join(m.dir(id), name)); !errors.Is(err, os.ErrNotExist) {
			return true
		}
	}
	return false
}

// aside is in the name of a VM's directory whose record could not be trusted,
// behind the VM's id.
const aside = ".set-aside-"

func (m *Manager) someAside() bool {
	some, err := filepath.Glob(filepath.Join(m.StateDir, "*"+aside+"*"))
	return err == nil && len(some) > 0
}

// setAside renames a directory whose record can't be trusted, so that it is
// neither used nor lost.
func (m *Manager) setAside(id string) error {
	to := m.dir(id) + aside + time.Now().UTC().Format("20060102T150405")
	if err := os.Rename(m.dir(id), to); err != nil {
		return fmt.Errorf("cannot set the VM's directory aside: %w", err)
	}
	return nil
}

// look finds out what is there of a VM's VMM. An error says that it can't be told.
func (v *machine) look(ctx context.Context) (found, error) {
	r, f := v.record(), found{machine: v}
	if r.VMM == nil {
		return f, nil
	}
	self, err := proc.Of(os.Getpid())
	if err != nil {
		return f, err
	}
	f.otherBoot = self.BootID != r.VMM.Identity.BootID
	f.process, err = firecracker.Adopt(ctx, r.VMM.Identity, v.m.runDir(r.ID))
	f.alive = err == nil
	if errors.Is(err, firecracker.ErrGone) || errors.Is(err, firecracker.ErrNoAPI) {
		err = nil
	}
	return f, err
}

// reattach gives what runs its network.
func (m *Manager) reattach(ctx context.Context, looked []found) error {
	m.netMu.Lock()
	defer m.netMu.Unlock()
	for _, f := range looked {
		if r := f.record(); decide(r, f.seen) == actAdopt {
			m.attached[r.ID] = r.Lease
		}
	}
	return m.Network.Set(ctx, leases(m.attached))
}

// recover does what decide says.
func (f found) recover(ctx context.Context) error {
	act := decide(f.record(), f.seen)
	f.m.Log.Info("found a VM", "vm", f.record().Name, "state", f.record().State, "does", act)
	switch act {
	case actAdopt:
		return f.adopt(f.process)
	case actSettle:
		return f.settleUnseen(ctx, f.seen)
	}
	if f.process != nil {
		f.process.Release()
	}
	switch act {
	case actDiscard:
		return errors.Join(f.sweep(ctx), f.erase())
	case actDelete:
		return f.delete(ctx, progress.Discard)
	case actEnd:
		return f.endStart(ctx)
	case actRestart:
		f.m.workers.Go(f.rebootGuest)
	}
	return nil
}

// endStart takes back a start that never ended, and begins it anew where it was
// a guest's reboot: nobody else will.
func (v *machine) endStart(ctx context.Context) error {
	err := errors.Join(v.sweep(ctx), v.clearRunDir(), v.change(func(r *Record) error {
		r.VMM = nil
		return transition(r, api.StateStopped, "bangerd ended while it started")
	}))
	if err == nil && v.record().Restart {
		v.m.workers.Go(v.rebootGuest)
	}
	return err
}

// adopt takes up a VM that runs. What its guest did meanwhile is in the
// console's pipe, and its agent tells again how far it is.
func (v *machine) adopt(process *firecracker.Process) error {
	rec := v.record()
	dir := v.m.runDir(rec.ID)
	c, err := listen(dir, v.log)
	if err != nil {
		process.Release()
		return err
	}
	// The keeper may be another one than before.
	if err := v.m.Consoles.Keep(rec.ID, c.path); err != nil {
		v.log.add("daemon", err.Error())
	}
	c.recall()
	r := newRun(v.m.life, dir, c)
	r.process = process
	r.hello, err = listenHello(dir, rec.Lease.UID)
	if err != nil {
		r.letGo()
		return err
	}
	v.reopenPorts(r)
	r.watch(v.configure)
	r.greet(v.configure)
	v.log.add("daemon", "a new bangerd takes the VM up")
	if rec.State == api.StateStopping {
		if err := v.become(api.StateRunning, "its stop was interrupted"); err != nil {
			v.log.add("daemon", err.Error())
		}
	}
	v.supervise(r)
	if rec.State == api.StatePaused {
		v.m.workers.Go(func() { v.haltAgain(r) })
	} else {
		v.m.workers.Go(func() { v.noticeHalt(r) })
	}
	return nil
}

// noticeHalt asks a VMM whose VM is to run whether it is paused: the last daemon
// may have paused it on a disk that was too full to say so. It runs on with all
// others.
func (v *machine) noticeHalt(r *run) {
	ctx, cancel := context.WithTimeout(r.ctx, pauseTime)
	defer cancel()
	end, err := v.begin(ctx)
	if err != nil {
		return
	}
	defer end()
	info, err := r.process.Client().Describe(ctx)
	stopped := err != nil && v.losesVsock() // such a one is paused by stopping its process
	if stopped || err == nil && info.State == firecracker.StatePaused {
		r.halted = true
	}
}

// haltAgain pauses a VM whose record says that it is paused: the last daemon may
// have died before it came to that, or when it had just let the VM run on.
func (v *machine) haltAgain(r *run) {
	ctx, cancel := context.WithTimeout(r.ctx, killTimeout)
	defer cancel()
	end, err := v.begin(ctx)
	if err != nil {
		return
	}
	defer end()
	if v.record().State != api.StatePaused || v.running() != r {
		return
	}
	if err := v.halt(ctx, r); err != nil {
		v.log.add("daemon", err.Error())
	}
}

// settleUnseen deals with a VMM that ended while no daemon looked, or whose end
// a daemon saw that died over it: the last word is in the console's pipe, or in
// the journal already.
func (v *machine) settleUnseen(ctx context.Context, s seen) error {
	how := ending{hostRestarted: s.otherBoot, words: firecracker.Complaint(v.m.runDir(v.record().ID))}
	if c, err := listen(v.m.runDir(v.record().ID), v.log); err == nil {
		c.finish()
	}
	how.word, how.about = v.log.lastWord()
	if err := v.sweep(ctx); err != nil {
		return err
	}
	again, err := v.ended(v.explain(how))
	if again {
		v.m.workers.Go(v.rebootGuest)
	}
	return err
}

// sweepOrphans removes runtime directories that no VM owns, and ends what runs
// in them.
func (m *Manager) sweepOrphans(ctx context.Context) {
	entries, err := os.ReadDir(m.RuntimeDir)
	if err != nil {
		m.Log.Error("cannot look for left-over VMMs", "error", err)
		return
	}
	for _, e := range entries {
		m.mu.Lock()
		_, owned := m.vms[e.Name()]
		m.mu.Unlock()
		if owned {
			continue
		}
		dir := filepath.Join(m.RuntimeDir, e.Name())
		if err := errors.Join(firecracker.Sweep(ctx, dir), os.RemoveAll(dir), m.Consoles.Drop(e.Name())); err != nil {
			m.Log.Error("cannot remove a left-over", "directory", dir, "error", err)
		}
	}
}
