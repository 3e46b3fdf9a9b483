package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/progress"
)

// machine is one VM as this daemon holds it: its record, its journal and,
// while it runs, its run.
type machine struct {
	m   *Manager
	dir string
	log *journal
	// turn is held by the one operation that changes the VM.
	turn chan struct{}

	mu  sync.Mutex
	rec Record
	run *run // nil unless a VMM runs
	// settling is the run whose VMM has ended and is being cleared away after.
	settling *run
	// interrupt ends the start that has the turn; nil when none has.
	interrupt context.CancelCauseFunc
	// step is how far the operation is that has the turn.
	step string
}

// newMachine gives the VM of a record. It is one also where its log can't be
// opened, which keeps what is said from when it can.
func (m *Manager) newMachine(r Record) *machine {
	log, err := openJournal(m.dir(r.ID))
	if err != nil {
		m.Log.Error("a VM's log keeps nothing for now", "vm", r.Name, "error", err)
	}
	return &machine{m: m, dir: m.dir(r.ID), log: log, turn: make(chan struct{}, 1), rec: r}
}

// find gives the VM that goes by a name or an id.
func (m *Manager) find(nameOrID string) (*machine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok := m.vms[nameOrID]; ok {
		return v, nil
	}
	for _, v := range m.vms {
		if v.record().Name == nameOrID {
			return v, nil
		}
	}
	hint := "banger vm list shows the VMs there are"
	if m.someAside() {
		hint += "; there were others, whose records could not be read: banger doctor tells of them"
	}
	return nil, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no VM %q", nameOrID), Hint: hint}
}

func (m *Manager) all() []*machine {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*machine, 0, len(m.vms))
	for _, v := range m.vms {
		list = append(list, v)
	}
	slices.SortFunc(list, func(a, b *machine) int {
		return cmp.Or(a.record().Created.Compare(b.record().Created), cmp.Compare(a.record().ID, b.record().ID))
	})
	return list
}

// deletedMost bounds how many deleted VMs are remembered.
const deletedMost = 1000

// forget takes a VM off the list. One that was deleted, unlike one whose create
// failed, is remembered for who deletes it again.
func (m *Manager) forget(was api.VM) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.vms, was.ID)
	if was.State == api.StateDeleting {
		was.Step = ""
		m.deleted = append(m.deleted[max(0, len(m.deleted)+1-deletedMost):], was)
	}
}

func (m *Manager) isForgotten(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.vms[id] == nil
}

// deletedVM gives the VM that went by a name or an id and was deleted last.
func (m *Manager) deletedVM(nameOrID string) (api.VM, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, was := range slices.Backward(m.deleted) {
		if was.ID == nameOrID || was.Name == nameOrID {
			return was, true
		}
	}
	return api.VM{}, false
}

// begin takes the VM's turn; the caller calls end. When the VM's VMM has just
// ended, the turn begins after all that comes of that.
func (v *machine) begin(ctx context.Context) (end func(), err error) {
	select {
	case v.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, v.busy(ctx)
	}
	select {
	case <-v.isSettled():
		return func() { <-v.turn }, nil
	case <-ctx.Done():
		<-v.turn
		return nil, v.busy(ctx)
	}
}

// follow makes what an operation reports tell also those who look at the VM. The
// operation sets the step back when it ends.
func (v *machine) follow(report progress.Func) progress.Func {
	return func(e progress.Event) {
		v.setStep(e.Step)
		report(e)
	}
}

func (v *machine) setStep(name string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.step = name
}

func (v *machine) atStep() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.step
}

func (v *machine) busy(ctx context.Context) error {
	return fmt.Errorf("cannot wait for VM %s, which is busy: %w", v.record().Name, context.Cause(ctx))
}

// errInterrupted is a start that gave way to a stop or a delete.
var errInterrupted = fmt.Errorf("the VM was stopped or deleted while it started: %w", context.Canceled)

// interruptible makes the context of an operation that gives way.
func (v *machine) interruptible(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	v.setInterrupt(cancel)
	return ctx, func() { v.setInterrupt(nil); cancel(nil) }
}

func (v *machine) setInterrupt(cancel context.CancelCauseFunc) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.interrupt = cancel
}

// beginAfter takes the turn from a start that has it.
func (v *machine) beginAfter(ctx context.Context) (end func(), err error) {
	v.mu.Lock()
	if v.interrupt != nil {
		v.interrupt(errInterrupted)
	}
	v.mu.Unlock()
	return v.begin(ctx)
}

func (v *machine) record() Record {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.rec
}

func (v *machine) running() *run {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.run
}

func (v *machine) setRun(r *run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.run = r
}

// settles moves a run whose VMM has ended out of sight; nil when all is cleared
// away.
func (v *machine) settles(r *run) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.settling = r
	if r != nil {
		v.run = nil
	}
}

// isSettled is closed when no VMM's end is being dealt with.
func (v *machine) isSettled() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.settling != nil {
		return v.settling.settled
	}
	if v.run != nil && v.run.over() {
		return v.run.settled
	}
	settled := make(chan struct{})
	close(settled)
	return settled
}

// change edits the record and makes the edit durable; on failure the record is
// as before.
func (v *machine) change(edit func(*Record) error) error {
	return v.edit(edit, func(_ Record, err error) error { return err })
}

// insist is change for what has happened already, or what must not fail for want
// of room: the end of a VMM, a pause, a stop, a delete. Where the edit can't be
// made durable it holds as long as this daemon lives. The next one finds the
// record as it was, and does as if this one had died a moment earlier.
func (v *machine) insist(edit func(*Record) error) error {
	return v.edit(edit, func(r Record, err error) error {
		v.m.Log.Error("a VM's record is older than what is so", "vm", r.Name, "state", r.State, "error", err)
		return nil
	})
}

// edit edits the record; unsaved says what comes of an edit that can't be made
// durable.
func (v *machine) edit(edit func(*Record) error, unsaved func(Record, error) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	r := v.rec
	if err := edit(&r); err != nil {
		return err
	}
	if err := v.m.save(r); err != nil {
		if err := unsaved(r, err); err != nil {
			return err
		}
	}
	if r.State != v.rec.State {
		v.log.add("daemon", said(r))
	}
	v.rec = r
	return nil
}

// become insists on another state.
func (v *machine) become(to api.State, reason string) error {
	return v.insist(func(r *Record) error { return transition(r, to, reason) })
}

func said(r Record) string {
	if r.Reason == "" {
		return "the VM is " + string(r.State)
	}
	return fmt.Sprintf("the VM is %s: %s", r.State, r.Reason)
}

func (v *machine) describe() api.VM {
	r, run := v.record(), v.running()
	used, err := disk.Used(v.disk())
	if err != nil {
		used = 0 // not made yet, or gone already
	}
	d := api.VM{
		ID: r.ID, Name: r.Name, State: r.State, Reason: r.Reason,
		Image: r.Spec.Image, Kernel: r.Spec.Kernel,
		VCPUs: r.Spec.VCPUs, MemoryMiB: r.Spec.MemoryMiB, DiskMiB: r.Spec.DiskMiB,
		DiskUsed: used, MAC: r.Lease.MAC, Remove: r.Remove,
		Created: r.Created, Warning: r.Warning, StartedBy: r.StartedBy, Starts: r.LastStart, Dir: v.dir,
		Workspaces: slices.Clone(r.Workspaces), Step: v.atStep(),
	}
	if r.Lease.Addr.IsValid() {
		d.Address = r.Lease.Addr.Addr().String()
	}
	d.Ports = v.describePorts()
	if run != nil {
		d.Ready = run.isReady()
		d.NoShell = run.hasNoShell()
		d.Started = r.Started
	}
	if r.VMM != nil {
		d.VMM = &api.VMM{Binary: r.VMM.Binary, Version: r.VMM.Version, PID: r.VMM.Identity.PID}
	}
	return d
}

const (
	layerName = "disk.cow" // over the image
	wholeName = "disk.raw" // a copy of it
)

// diskNames are all that a VM's disk may be called in its directory.
var diskNames = []string{layerName, wholeName}

func (v *machine) disk() string {
	if v.record().Whole {
		return filepath.Join(v.dir, wholeName)
	}
	return filepath.Join(v.dir, layerName)
}

// letGo stops watching the VM, which runs on.
func (v *machine) letGo() {
	if run := v.running(); run != nil {
		run.letGo()
	}
}

// words joins what went wrong in several places into one line.
func words(errs ...error) string {
	if err := errors.Join(errs...); err != nil {
		return err.Error()
	}
	return ""
}
