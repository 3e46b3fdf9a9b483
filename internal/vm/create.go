package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/network"
	"github.com/banger-vm/banger/internal/progress"
	"github.com/banger-vm/banger/internal/undo"
)

// minFree is how much room the host's disk must have before a VM is made or
// started.
const minFree = 256 << 20

// Run makes a VM and starts it, unless the request says not to. When that
// fails nothing is left, with one exception: a VM whose guest does not get
// ready runs on, so that a person can look.
func (m *Manager) Run(ctx context.Context, req api.CreateRequest, report progress.Func) (api.VM, error) {
	made, err := m.Create(ctx, req, report)
	if err != nil || req.NoStart {
		return made, err
	}
	started, err := m.Start(ctx, made.ID, req.Wait, report)
	if err == nil || isGuestTrouble(err) && started.VMM != nil {
		return started, err
	}
	_, undone := m.Delete(context.WithoutCancel(ctx), made.ID, progress.Discard)
	if undone != nil {
		return api.VM{}, errors.Join(err, undone)
	}
	return api.VM{}, ofDeleted(err)
}

// ofDeleted is why a VM did not start that is gone by now, and with it the log
// where more of its guest's words were.
func ofDeleted(err error) error {
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindGuest {
		return err
	}
	return &api.Error{Kind: told.Kind, Message: err.Error(),
		Hint: "that VM is gone; `banger vm create --no-start` and then `banger vm start` keep one that does not start, with its log"}
}

// Create makes a VM and does not start it. When it fails, nothing is left.
func (m *Manager) Create(ctx context.Context, req api.CreateRequest, report progress.Func) (_ api.VM, err error) {
	name, spec, err := resolve(req, m.Defaults)
	if err != nil {
		return api.VM{}, err
	}
	if err := disk.CheckSpace(m.StateDir, minFree, "a new VM"); err != nil {
		return api.VM{}, err
	}
	var undone undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, undone.Unwind(ctx))
		}
	}()
	var v *machine
	var base image.Image
	s := m.steps(report)
	err = s.do(ctx, "create.record", func() error {
		v, err = m.reserve(name, spec, req)
		if err == nil {
			undone.Push("the record", func(context.Context) error { return v.erase() })
		}
		return err
	})
	if err != nil {
		return api.VM{}, err
	}
	end, err := v.begin(ctx)
	if err != nil {
		return api.VM{}, err
	}
	defer end()
	report = v.follow(report)
	s.report = report
	err = s.do(ctx, "create.image", func() error {
		base, err = m.Images.Ensure(ctx, spec.Image, report)
		spec.Image = base.Name // a reference to a registry has become an image
		return err
	})
	if err != nil {
		return api.VM{}, err
	}
	if most := largestDiskMiB(base); spec.DiskMiB > most {
		return api.VM{}, bad(fmt.Sprintf("image %s can't grow to a disk of %d MiB", spec.Image, spec.DiskMiB), fmt.Sprintf("use --disk %dM or less", most))
	}
	spec.Kernel = or(or(spec.Kernel, base.Kernel), m.Defaults.Kernel)
	err = s.do(ctx, "create.kernel", func() error {
		k, err := m.Kernels.Ensure(ctx, spec.Kernel, report)
		if err != nil {
			return err
		}
		return v.change(func(r *Record) error { r.Whole = k.NoDeviceMapper; return nil })
	})
	if err != nil {
		return api.VM{}, err
	}
	err = s.do(ctx, "create.disk", func() error {
		return errors.Join(makeHostKey(v.dir), v.makeDisk(ctx, spec, base, report))
	})
	if err != nil {
		return api.VM{}, err
	}
	err = s.do(ctx, "create.commit", func() error {
		return v.change(func(r *Record) error {
			r.Spec, r.Rootfs, r.Container, r.Provisioned = spec, base.Rootfs, base.Config, true
			return nil
		})
	})
	if err != nil {
		return api.VM{}, err
	}
	undone.Release()
	v.setStep("")
	return v.describe(), nil
}

// makeDisk makes the VM's disk: a layer over the image or, where its kernel
// can't put that together, a copy of it, and then it says what that costs.
func (v *machine) makeDisk(ctx context.Context, spec Spec, base image.Image, report progress.Func) error {
	made := disk.Spec{Path: v.disk(), Virtual: spec.DiskMiB << 20, Base: base.Size, UID: v.record().Lease.UID}
	if !v.record().Whole {
		return disk.Create(made)
	}
	shared, err := disk.Copy(ctx, made, base.Rootfs)
	if err != nil {
		return err
	}
	cost := fmt.Sprintf("it takes %d MiB of disk", base.Used>>20)
	if shared {
		cost = "the host's filesystem shares what is not changed"
	}
	report(progress.Event{Step: "create.disk", Warning: true, Detail: fmt.Sprintf(
		"kernel %s has no device-mapper, so the VM has a copy of image %s of its own: %s, and the host's memory holds it once more", spec.Kernel, base.Name, cost)})
	return nil
}

// reserve takes the name and a lease, and writes the intent down before
// anything is done.
func (m *Manager) reserve(name string, spec Spec, req api.CreateRequest) (*machine, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ports, err := checkPorts(req.Ports)
	if err != nil {
		return nil, err
	}
	taken := func(name string) bool { return m.named(name) != nil }
	if name == "" {
		name = madeUpName(taken)
	}
	if taken(name) {
		return nil, &api.Error{
			Kind:    api.KindExists,
			Message: fmt.Sprintf("there is a VM %q already", name),
			Hint:    fmt.Sprintf("banger vm start %s starts it, banger vm ssh %s opens a shell in it", name, name),
		}
	}
	lease, err := m.Pool.Pick(m.takenBut(nil))
	if err != nil {
		return nil, err
	}
	r := Record{
		Format: recordFormat, ID: newID(), Name: name, Spec: spec, Created: time.Now().UTC(),
		State: api.StateCreated, Run: !req.NoStart, Remove: req.Remove, Lease: lease,
		Ports: ports,
	}
	if err := os.MkdirAll(m.dir(r.ID), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the VM's directory: %w", err)
	}
	if err := m.save(r); err != nil {
		return nil, errors.Join(err, os.RemoveAll(m.dir(r.ID)))
	}
	v := m.newMachine(r)
	m.vms[r.ID] = v
	return v, nil
}

func (m *Manager) named(name string) *machine {
	for _, v := range m.vms {
		if v.record().Name == name {
			return v
		}
	}
	return nil
}

// takenBut are the leases of all VMs but one.
func (m *Manager) takenBut(one *machine) []network.Lease {
	list := make([]network.Lease, 0, len(m.vms))
	for _, v := range m.vms {
		if v != one {
			list = append(list, v.record().Lease)
		}
	}
	return list
}

// erase removes all that is on disk of a VM, and the VM from the list.
func (v *machine) erase() error {
	was := v.describe()
	if err := errors.Join(v.clearRunDir(), v.removeDir()); err != nil {
		return fmt.Errorf("cannot remove the VM's directory: %w", err)
	}
	v.m.forget(was)
	v.log.close() // whoever follows the log learns that the VM is gone, now that it is
	return nil
}

// removeDir removes the VM's directory, and the disk in it first: one without a
// record is never taken for what a delete has left.
func (v *machine) removeDir() error {
	for _, name := range diskNames {
		if err := os.RemoveAll(filepath.Join(v.dir, name)); err != nil {
			return err
		}
	}
	return os.RemoveAll(v.dir)
}
