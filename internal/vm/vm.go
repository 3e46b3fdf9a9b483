// Package vm is the life of a microVM: its record, start, stop, and what
// becomes of it when the daemon was away. It is the only package that knows
// image, kernel, disk, network, firecracker and the guest at once.
//
// A VM is a directory with vm.json in it. The intent is written there before
// the deed, so that the next daemon can finish or take back whatever this one
// left half done: [Manager.Reconcile].
package vm

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/credential"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/network"
	"github.com/banger-vm/banger/internal/progress"
	"github.com/banger-vm/banger/internal/vmm"
)

// UIDBase is the first of the unprivileged user ids that VMMs run under, one
// for each VM: UIDBase plus the slot of its lease.
const UIDBase = 720000

// Images finds root filesystems.
type Images interface {
	Ensure(ctx context.Context, name string, report progress.Func) (image.Image, error)
	Check(name string) error
	Commit(ctx context.Context, c image.Commit, report progress.Func) (image.Image, error)
}

// Kernels finds kernels.
type Kernels interface {
	Ensure(ctx context.Context, name string, report progress.Func) (kernel.Kernel, error)
}

// Network connects running VMs.
type Network interface {
	Set(ctx context.Context, attached []network.Lease) error
	Close(ctx context.Context, keep []network.Lease) error
}

// Consoles keeps the consoles of running VMs open while no daemon lives, so
// that the last word of a guest is not lost: package keeper.
type Consoles interface {
	Keep(id, pipe string) error
	Drop(id string) error
}

// Defaults fill what a request leaves open.
type Defaults struct {
	Image     string
	Kernel    string // for an image that names none
	VCPUs     int
	MemoryMiB int64
	DiskMiB   int64
}

// Options are what a Manager needs. All fields but Credentials and AtStep are
// required.
type Options struct {
	StateDir   string // one directory per VM below it
	RuntimeDir string // one short directory per running VM below it
	Images     Images
	Kernels    Kernels
	Network    Network
	Consoles   Consoles
	Pool       network.Config // hands out leases
	ChooseVMM  func() (vmm.Choice, error)
	Guest      GuestSettings
	// Credentials are the user's files that guests get at their start; nil
	// means none, ever.
	Credentials []credential.File
	Defaults    Defaults
	// BootTimeout is how long a guest may take from its boot to its agent;
	// StageTimeout how long from there to the stage that was waited for.
	BootTimeout  time.Duration
	StageTimeout time.Duration
	Log          *slog.Logger
	// AtStep is called with the name of each step just before its deed, so
	// that a test can halt it exactly there and kill somebody.
	AtStep func(step string)
}

// Manager owns all VMs of one state directory.
type Manager struct {
	Options
	boots *bootQueue

	mu  sync.Mutex
	vms map[string]*machine // by id
	// deleted is the VMs that are no more, the last one last.
	deleted []api.VM

	netMu    sync.Mutex
	attached map[string]network.Lease // by id of the running VM
	workers  sync.WaitGroup           // supervisors and what they start
	life     context.Context          // ends when the manager closes
	end      context.CancelFunc
}

// New gives a manager that knows no VM yet; [Manager.Reconcile] reads them.
func New(o Options) *Manager {
	if o.AtStep == nil {
		o.AtStep = func(string) {}
	}
	life, end := context.WithCancel(context.Background())
	return &Manager{
		Options:  o,
		boots:    newBootQueue(runtime.NumCPU()),
		vms:      map[string]*machine{},
		attached: map[string]network.Lease{},
		life:     life,
		end:      end,
	}
}

// Close stops watching the VMs, which run on, and takes away what no running
// VM needs of the network.
func (m *Manager) Close(ctx context.Context) error {
	m.end()
	for _, v := range m.all() {
		v.letGo()
	}
	m.workers.Wait()
	m.netMu.Lock()
	defer m.netMu.Unlock()
	return m.Network.Close(ctx, leases(m.attached))
}

// List gives every VM, oldest first.
func (m *Manager) List() []api.VM {
	var list []api.VM
	for _, v := range m.all() {
		list = append(list, v.describe())
	}
	return list
}

// Show gives the VM that goes by a name or an id.
func (m *Manager) Show(nameOrID string) (api.VM, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.VM{}, err
	}
	return v.describe(), nil
}

// Settled is Show when no end of the VM's is being dealt with, which takes a
// moment: whoever lost its guest wants to know why.
func (m *Manager) Settled(ctx context.Context, nameOrID string) (api.VM, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.VM{}, err
	}
	select {
	case <-v.isSettled():
		return v.describe(), nil
	case <-ctx.Done():
		return api.VM{}, context.Cause(ctx)
	}
}

// UsesImage tells which VMs, by name, have a disk over the image.
func (m *Manager) UsesImage(name string) []string {
	var users []string
	for _, v := range m.all() {
		if r := v.record(); r.Spec.Image == name && !r.Whole {
			users = append(users, r.Name)
		}
	}
	return users
}

// UsesKernel tells which VMs, by name, start with the kernel.
func (m *Manager) UsesKernel(name string) []string {
	var users []string
	for _, v := range m.all() {
		if r := v.record(); r.Spec.Kernel == name {
			users = append(users, r.Name)
		}
	}
	return users
}

// attach connects a VM's tap, detach takes it away: each time the whole wanted
// network goes in.
func (m *Manager) attach(ctx context.Context, id string, lease network.Lease) error {
	m.netMu.Lock()
	defer m.netMu.Unlock()
	m.attached[id] = lease
	if err := m.Network.Set(ctx, leases(m.attached)); err != nil {
		delete(m.attached, id)
		return fmt.Errorf("cannot connect the VM to the network: %w", err)
	}
	return nil
}

func (m *Manager) detach(ctx context.Context, id string) error {
	m.netMu.Lock()
	defer m.netMu.Unlock()
	if _, ok := m.attached[id]; !ok {
		return nil
	}
	delete(m.attached, id)
	if err := m.Network.Set(ctx, leases(m.attached)); err != nil {
		return fmt.Errorf("cannot disconnect the VM from the network: %w", err)
	}
	return nil
}

func leases(attached map[string]network.Lease) []network.Lease {
	list := make([]network.Lease, 0, len(attached))
	for _, l := range attached {
		list = append(list, l)
	}
	return list
}
