package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/oom"
	"github.com/banger-vm/banger/internal/progress"
	"github.com/banger-vm/banger/internal/undo"
	"github.com/banger-vm/banger/internal/vmm"
)

// Start starts a VM and waits until its guest has come as far as wait says.
// When the VMM or the guest fails, the VM is as it was before; when the guest
// only does not get ready in time, it runs on, so that a person can look. One that
// runs already is left as it is, but for the wait.
func (m *Manager) Start(ctx context.Context, nameOrID string, wait api.Wait, report progress.Func) (api.VM, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return api.VM{}, err
	}
	r, err := v.startInTurn(ctx, wait, report)
	if errors.Is(err, errRunsAlready) {
		report(progress.Event{Detail: fmt.Sprintf("VM %s runs already", v.record().Name), Warning: true})
		_, _, err := m.reachable(ctx, v.record().ID, wait)
		return v.describe(), err
	}
	if err != nil {
		return v.describe(), err
	}
	runs := v.describe()
	if err := v.awaitStage(ctx, r, wait, report); err != nil {
		if r.over() {
			runs.VMM = nil
		}
		return runs, err
	}
	return v.describe(), nil
}

// errRunsAlready is the start of a VM that runs.
var errRunsAlready = errors.New("the VM runs already")

// startInTurn takes the VM's turn for the start alone: while its guest goes on
// to the stage that somebody waits for, others can stop or delete it.
func (v *machine) startInTurn(ctx context.Context, wait api.Wait, report progress.Func) (*run, error) {
	end, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if v.record().State == api.StateRunning && v.running() != nil {
		return nil, errRunsAlready
	}
	if err := require(v.record(), "start", api.StateCreated, api.StateStopped, api.StateFailed); err != nil {
		return nil, err
	}
	return v.start(ctx, wait, report)
}

// start is one start, to the agent's hello, of a VM that somebody wants to come
// as far as wait says. The caller holds the VM's turn; a stop or a delete
// interrupts it.
func (v *machine) start(ctx context.Context, wait api.Wait, report progress.Func) (*run, error) {
	ctx, done := v.interruptible(ctx)
	defer done()
	if err := v.checkBase(); err != nil {
		return nil, err
	}
	defer v.setStep("")
	s := v.m.steps(v.follow(report))
	leave, err := v.admit(ctx, s)
	if err != nil {
		return nil, err
	}
	defer leave()
	before := v.record()
	r, waited, err := v.attempt(ctx, s, before, wait)
	for tries := 1; isPanic(err) && tries < bootTries; tries++ {
		v.log.add("daemon", startedAgain)
		s.report(progress.Event{Step: "start.agent", Detail: startedAgain, Warning: true})
		r, waited, err = v.attempt(ctx, s, before, wait)
	}
	if err != nil {
		return nil, err
	}
	v.supervise(r)
	return r, waited
}

// bootTries is how often a guest is booted whose kernel panics over it, see
// "One processor boots" in docs/ARCHITECTURE.md.
const bootTries = 3

const startedAgain = "the guest's kernel panicked while it booted: it is started once more"

// attempt is one walk through the start of a VM that was so before it, with all
// that it did undone when it fails.
func (v *machine) attempt(ctx context.Context, s *steps, before Record, wait api.Wait) (r *run, waited, err error) {
	a := &attempt{machine: v, steps: s, vms: v.m, before: before, wait: wait}
	r, waited, err = a.walk(ctx)
	if err != nil {
		a.why = err
		return nil, nil, errors.Join(err, a.undone.Unwind(ctx))
	}
	a.undone.Release()
	return r, waited, nil
}

// checkBase refuses to start over a file that is not what the VM's disk was
// made over. One that is gone from the store is told of when it is needed.
func (v *machine) checkBase() error {
	rec := v.record()
	if rec.Whole {
		return nil
	}
	if err := v.m.Images.Check(rec.Spec.Image); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot start VM %s, whose disk lies over the image: %w", rec.Name, err)
	}
	return nil
}

// admit looks whether there is room for the VM, and waits for its turn to boot;
// leave ends the turn.
func (v *machine) admit(ctx context.Context, s *steps) (leave func(), err error) {
	if err := disk.CheckSpace(v.m.StateDir, minFree, "the VM's disk"); err != nil {
		return nil, err
	}
	begun := time.Now()
	leave, err = v.m.boots.enter(ctx, func(place int) {
		s.report(progress.Event{Step: "queue", Detail: fmt.Sprintf("place %d in the queue", place)})
	})
	if err != nil {
		return nil, err
	}
	s.took = append(s.took, api.Step{Name: "start.queue", Took: time.Since(begun)})
	if err := v.renewLease(); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// attempt is one start of a VM: a step for each method, in the order of walk,
// each with its undo.
type attempt struct {
	*machine
	*steps
	vms    *Manager
	before Record // of the VM, with the lease that is used
	wait   api.Wait
	undone undo.Stack
	why    error // the attempt failed
}

// walk is the whole start, straight through. A guest that does not answer in
// time is no failure, and waited says so.
func (a *attempt) walk(ctx context.Context) (r *run, waited, err error) {
	if err := a.writeIntent(ctx); err != nil {
		return nil, nil, err
	}
	kernel, err := a.findKernel(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := a.connect(ctx); err != nil {
		return nil, nil, err
	}
	r, tty, err := a.openConsole(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer tty.Close()
	if err := a.do(ctx, "start.ports", func() error { return a.openPorts(r) }); err != nil {
		return nil, nil, err
	}
	choice, err := a.spawnVMM(ctx, r, kernel, tty)
	if err != nil {
		return nil, nil, err
	}
	if err := a.identify(ctx, r.process, choice); err != nil {
		return nil, nil, err
	}
	if err := a.configureMachine(ctx, r.process.Client(), choice, kernel); err != nil {
		return nil, nil, err
	}
	if err := a.boot(ctx, r); err != nil {
		return nil, nil, err
	}
	waited, err = a.meetAgent(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	return r, waited, a.commit(ctx, r, waited)
}

func (a *attempt) writeIntent(ctx context.Context) error {
	return a.do(ctx, "start.record", func() error {
		warning := a.vms.memoryWarning(a.before.ID)
		if warning != "" {
			a.report(progress.Event{Step: "start.record", Detail: warning, Warning: true})
		}
		a.undone.Push("the record", func(context.Context) error { return a.fellBack(a.before, a.why) })
		return a.change(func(r *Record) error {
			r.VMM, r.Started, r.Warning = nil, time.Now().UTC(), warning
			why := ""
			if r.Restart {
				why = guestRestarts
			}
			return transition(r, api.StateStarting, why)
		})
	})
}

func (a *attempt) findKernel(ctx context.Context) (k kernel.Kernel, err error) {
	err = a.do(ctx, "start.kernel", func() error {
		k, err = a.vms.Kernels.Ensure(ctx, a.before.Spec.Kernel, a.report)
		if err == nil && k.NoDeviceMapper && !a.before.Whole {
			return bad(fmt.Sprintf("kernel %s has no device-mapper any more, and the disk of VM %s needs one", k.Name, a.before.Name), "import a kernel of that name that has it")
		}
		return err
	})
	return k, err
}

func (a *attempt) connect(ctx context.Context) error {
	return a.do(ctx, "start.network", func() error {
		m := a.vms
		a.undone.Push("the network", func(ctx context.Context) error { return m.detach(ctx, a.before.ID) })
		return m.attach(ctx, a.before.ID, a.before.Lease)
	})
}

// openConsole gives the VM's run, with no VMM yet, and the VMM's end of its
// console.
func (a *attempt) openConsole(ctx context.Context) (r *run, tty *os.File, err error) {
	err = a.do(ctx, "start.console", func() error {
		a.undone.Push("the VMM's directory", func(context.Context) error { return a.clearRunDir() })
		r, tty, err = a.openRun()
		return err
	})
	if err == nil {
		a.undone.Push("the console", func(context.Context) error { r.letGo(); return nil })
	}
	return r, tty, err
}

func (a *attempt) spawnVMM(ctx context.Context, r *run, k kernel.Kernel, tty *os.File) (choice vmm.Choice, err error) {
	err = a.do(ctx, "start.spawn", func() error {
		choice, err = a.vms.ChooseVMM()
		if err != nil {
			return err
		}
		r.process, err = a.spawn(ctx, choice, k, tty)
		return err
	})
	if err == nil {
		a.undone.Push("the VMM", r.process.Kill)
	}
	return choice, err
}

// identify writes down which process runs the VM.
func (a *attempt) identify(ctx context.Context, process *firecracker.Process, choice vmm.Choice) error {
	return a.do(ctx, "start.identity", func() error {
		version, err := process.Client().Version(ctx)
		if err != nil {
			return err
		}
		who := process.Identity()
		return a.change(func(r *Record) error {
			r.VMM = &VMM{Binary: choice.Path, Version: version.String(), Identity: who, Memory: oom.MarkOf(who.PID)}
			return nil
		})
	})
}

func (a *attempt) configureMachine(ctx context.Context, c *firecracker.Client, choice vmm.Choice, k kernel.Kernel) error {
	return a.do(ctx, "start.configure", func() error { return a.configureVMM(ctx, c, bootArgs(a.record())+processorArgs(choice, k)) })
}

// boot listens for the guest first, so that its hello is heard.
func (a *attempt) boot(ctx context.Context, r *run) error {
	return a.do(ctx, "start.boot", func() error {
		r.greet(func(ctx context.Context, agent *host.Agent) error { return a.introduce(ctx, r, agent, a.wait) })
		return r.process.Client().InstanceStart(ctx)
	})
}

func (a *attempt) meetAgent(ctx context.Context, r *run) (waited, err error) {
	err = a.do(ctx, "start.agent", func() error {
		waited, err = a.awaitAgent(ctx, r)
		r.warn(a.report)
		return err
	})
	return waited, err
}

func (a *attempt) commit(ctx context.Context, r *run, waited error) error {
	return a.do(ctx, "start.commit", func() error {
		// Who reads that it runs must be able to reach it.
		a.undone.Push("the run", func(context.Context) error { a.setRun(nil); return nil })
		a.setRun(r)
		return a.change(func(rec *Record) error {
			rec.LastStart, rec.StartedBy = a.took, progress.Operation(ctx)
			rec.Run, rec.Restart = false, false
			rec.Remove = rec.Remove && waited == nil // kept for a person to look at
			return transition(rec, api.StateRunning, words(waited))
		})
	})
}

// renewLease gives a VM another place in the network when the configured range
// has changed since it got its own.
func (v *machine) renewLease() error {
	m := v.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Pool.Fits(v.record().Lease) {
		return nil
	}
	lease, err := m.Pool.Pick(m.takenBut(v))
	if err != nil {
		return err
	}
	if err := os.Lchown(v.disk(), lease.UID, -1); err != nil {
		return fmt.Errorf("cannot give the VM's disk to its new user: %w", err)
	}
	return v.change(func(r *Record) error { r.Lease = lease; return nil })
}

// fellBack is the record of a start that failed: a VM that never ran is what
// it was, any other has failed, unless the user gave up.
func (v *machine) fellBack(before Record, why error) error {
	return v.change(func(r *Record) error {
		r.VMM = nil
		switch {
		case before.State == api.StateCreated:
			return transition(r, api.StateCreated, words(why))
		case errors.Is(why, context.Canceled):
			return transition(r, api.StateStopped, "its start was interrupted")
		default:
			r.Restart = false
			return transition(r, api.StateFailed, words(why))
		}
	})
}

// openRun makes the VMM's directory with the console and the socket that the
// guest's agent will dial.
func (v *machine) openRun() (*run, *os.File, error) {
	rec := v.record()
	dir := v.m.runDir(rec.ID)
	if err := freshDir(dir, rec.Lease.UID); err != nil {
		return nil, nil, err
	}
	tty, err := makeConsole(dir)
	if err != nil {
		return nil, nil, err
	}
	if err := v.m.Consoles.Keep(rec.ID, consolePath(dir)); err != nil {
		tty.Close()
		return nil, nil, err
	}
	c, err := listen(dir, v.log)
	if err != nil {
		tty.Close()
		return nil, nil, err
	}
	r := newRun(v.m.life, dir, c)
	r.hello, err = listenHello(dir, rec.Lease.UID)
	if err != nil {
		r.letGo()
		tty.Close()
		return nil, nil, err
	}
	return r, tty, nil
}

// clearRunDir removes what a VMM had; the console's pipe goes with it.
func (v *machine) clearRunDir() error {
	id := v.record().ID
	return errors.Join(os.RemoveAll(v.m.runDir(id)), v.m.Consoles.Drop(id))
}

func freshDir(dir string, uid int) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot clear the VMM's directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make the VMM's directory: %w", err)
	}
	if err := os.Lchown(dir, uid, uid); err != nil {
		return fmt.Errorf("cannot give the VMM its directory: %w", err)
	}
	return nil
}

// spawn starts the VMM as the VM's own user, with the disk's lock in its hand.
func (v *machine) spawn(ctx context.Context, choice vmm.Choice, k kernel.Kernel, tty *os.File) (*firecracker.Process, error) {
	rec := v.record()
	lock, err := disk.Lock(v.disk())
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	return firecracker.Start(ctx, firecracker.Spawn{
		Bin:     choice.Path,
		ID:      rec.ID,
		Dir:     v.m.runDir(rec.ID),
		UID:     rec.Lease.UID,
		GID:     rec.Lease.UID,
		Console: tty,
		Hold:    []*os.File{lock},
		Devices: devices(choice),
		Binds: append([]firecracker.Bind{
			{Source: k.Vmlinux, Name: kernelFile, ReadOnly: true},
			{Source: k.Initramfs, Name: initrdFile, ReadOnly: true},
			{Source: k.Modules, Name: modulesFile, ReadOnly: true},
		}, v.diskBinds()...),
	})
}

// diskBinds are the files that the VM's disk is made of.
func (v *machine) diskBinds() []firecracker.Bind {
	if v.record().Whole {
		return []firecracker.Bind{{Source: v.disk(), Name: baseFile}}
	}
	return []firecracker.Bind{{Source: v.record().Rootfs, Name: baseFile, ReadOnly: true}, {Source: v.disk(), Name: cowFile}}
}

func devices(choice vmm.Choice) []string {
	if choice.Accelerated {
		return []string{"/dev/net/tun", "/dev/kvm"}
	}
	return []string{"/dev/net/tun"}
}

// configureVMM tells the VMM what machine to build. The drives' order is their
// order in the guest, which banger-init is told on the command line.
func (v *machine) configureVMM(ctx context.Context, c *firecracker.Client, args string) error {
	rec := v.record()
	yes := true
	return first(
		func() error {
			return c.PutMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: rec.Spec.VCPUs, MemSizeMiB: int(rec.Spec.MemoryMiB)})
		},
		func() error {
			return c.PutBootSource(ctx, firecracker.BootSource{KernelImagePath: kernelFile, InitrdPath: initrdFile, BootArgs: &args})
		},
		func() error { return putDisk(ctx, c, rec.Whole) },
		func() error {
			return c.PutDrive(ctx, firecracker.Drive{DriveID: "modules", PathOnHost: modulesFile, IsReadOnly: &yes})
		},
		func() error {
			return c.PutNetworkInterface(ctx, firecracker.NetworkInterface{IfaceID: "eth0", HostDevName: rec.Lease.Tap, GuestMAC: rec.Lease.MAC})
		},
		func() error {
			return c.PutVsock(ctx, firecracker.Vsock{GuestCID: guestCID, UDSPath: firecracker.VsockSocket})
		},
		func() error { return c.PutEntropy(ctx, firecracker.Entropy{}) },
	)
}

// putDisk gives the machine the drives that its disk is made of.
func putDisk(ctx context.Context, c *firecracker.Client, whole bool) error {
	yes, no := true, false
	if whole {
		return c.PutDrive(ctx, firecracker.Drive{DriveID: "base", PathOnHost: baseFile, IsReadOnly: &no, CacheType: firecracker.CacheWriteback})
	}
	return errors.Join(
		c.PutDrive(ctx, firecracker.Drive{DriveID: "base", PathOnHost: baseFile, IsReadOnly: &yes}),
		c.PutDrive(ctx, firecracker.Drive{DriveID: "cow", PathOnHost: cowFile, IsReadOnly: &no, CacheType: firecracker.CacheWriteback}))
}

func first(calls ...func() error) error {
	for _, call := range calls {
		if err := call(); err != nil {
			return err
		}
	}
	return nil
}

// bootArgs is the kernel's command line. It is quiet because each byte on the
// serial console costs a guest exit; the i8042 and pci words keep the kernel
// from probing for devices that are not there, and from complaining of them on
// the console; the time before the kernel's words tells them from a program's
// (wordOf). It does not test its own ciphers: the same tests of the same kernel at
// each boot would be a tenth of a guest's start where processors are slow.
func bootArgs(r Record) string {
	drives := "banger.base=vda banger.cow=vdb banger.modules=vdc"
	if r.Whole {
		drives = "banger.base=vda banger.modules=vdb"
	}
	return fmt.Sprintf("console=ttyS0 quiet loglevel=4 printk.time=1 reboot=k panic=1 pci=off net.ifnames=0"+
		" i8042.noaux i8042.nomux i8042.dumbkbd 8250.nr_uarts=1 cryptomgr.notests"+
		" systemd.show_status=false rd.systemd.show_status=false"+
		" %s banger.disk=%d", drives, r.Spec.DiskMiB<<20)
}

// processorArgs has a guest that is emulated in software boot on one processor;
// its agent puts the others to work before the first command runs. The kernel
// changes its own code while it boots, and QEMU shows a processor the change
// that another made late: where the host is busy the kernel panics at an int3.
// More processors make such a boot no faster either: they wait for each other.
//
// fcqemu.hz spares the others the measuring of their delay loop: fcqemu knows
// how fast their counter runs, and needs the kernel's ticks to say it in the
// kernel's unit.
func processorArgs(choice vmm.Choice, k kernel.Kernel) string {
	if choice.Accelerated {
		return ""
	}
	args := " maxcpus=1 noreplace-smp"
	if k.HZ > 0 {
		args += fmt.Sprintf(" fcqemu.hz=%d", k.HZ)
	}
	return args
}

// awaitAgent waits for the guest's agent. A guest that does not answer in time
// is no failure of the start: the VM is kept, and waited says so. err is what
// ends the start.
func (v *machine) awaitAgent(ctx context.Context, r *run) (waited, err error) {
	err = v.within(ctx, v.m.BootTimeout, r, api.WaitAgent)
	if errors.Is(err, errVMMEnded) {
		return nil, v.endedEarly(r)
	}
	if !isGuestTrouble(err) {
		return nil, err
	}
	// A VMM that dies breaks its guest's connections before its end is seen.
	select {
	case <-r.process.Done():
		return nil, v.endedEarly(r)
	case <-time.After(endPause):
		return err, nil
	}
}

// endPause is more than a VMM takes from its last connection to its end.
const endPause = time.Second

// awaitStage waits for the stage that a start was asked to wait for.
func (v *machine) awaitStage(ctx context.Context, r *run, wait api.Wait, report progress.Func) error {
	if wait == api.WaitAgent {
		return nil
	}
	report(progress.Event{Step: "start.stage"})
	begun := time.Now()
	err := v.within(ctx, v.m.StageTimeout, r, wait)
	if err == nil {
		return v.tookAlso(r, api.Step{Name: "start.stage", Took: time.Since(begun)})
	}
	if errors.Is(err, errVMMEnded) {
		return v.whyEnded(r)
	}
	if isGuestTrouble(err) {
		return errors.Join(err, v.keep())
	}
	return err
}

// tookAlso adds to what the record tells of a start that is over, unless the VM
// has ended meanwhile.
func (v *machine) tookAlso(r *run, step api.Step) error {
	if v.running() != r {
		return nil
	}
	return v.change(func(rec *Record) error {
		rec.LastStart = append(slices.Clone(rec.LastStart), step)
		return nil
	})
}

// keep takes back that the VM goes when its session is over: a guest that does
// not get ready is when a person wants to look.
func (v *machine) keep() error {
	return v.change(func(r *Record) error { r.Remove = false; return nil })
}

func (v *machine) within(ctx context.Context, limit time.Duration, r *run, wait api.Wait) error {
	name := v.record().Name
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &api.Error{
		Kind:    api.KindGuestTimeout,
		Message: fmt.Sprintf("the guest of VM %s did not get ready within %v; it still runs", name, limit),
		Hint:    fmt.Sprintf("banger vm logs %s shows what it said; banger vm delete %s removes it", name, name),
	})
	defer cancel()
	return r.await(ctx, wait)
}

func isGuestTrouble(err error) bool {
	var e *api.Error
	return errors.As(err, &e) && (e.Kind == api.KindGuestTimeout || e.Kind == api.KindGuest)
}

// endedEarly explains a VMM that ended before anybody supervised it, and lets
// the VM's log have its last words.
func (v *machine) endedEarly(r *run) error {
	why := v.whyEnded(r)
	if word, _ := r.console.last(); word == wordNone {
		v.log.quote("vmm", r.process.LastWords())
	}
	return why
}

// whyEnded explains a VMM that ended before its guest was ready.
func (v *machine) whyEnded(r *run) error {
	r.console.finish()
	if cause := v.killedForMemory(); cause != "" {
		return &api.Error{Kind: api.KindNoSpace, Message: fmt.Sprintf("cannot start VM %s: %s", v.record().Name, cause),
			Hint: "stop other VMs, or make one with less memory: banger vm create --memory"}
	}
	said := v.log.quoted(5)
	how := "ended"
	if status, known := r.process.Exit(); known {
		how = howEnded(status)
	}
	message := fmt.Sprintf("the VMM of VM %s %s before its guest was ready", v.record().Name, how)
	told := &api.Error{Kind: api.KindGuest, Message: message + said, Hint: fmt.Sprintf("banger vm logs %s shows all of it", v.record().Name)}
	if word, _ := r.console.last(); word == wordPanic {
		return &panicked{told}
	}
	return told
}

// panicked is why a guest did not get ready whose kernel panicked.
type panicked struct{ told *api.Error }

func (p *panicked) Error() string { return p.told.Error() }

func (p *panicked) Unwrap() error { return p.told }

func isPanic(err error) bool {
	var p *panicked
	return errors.As(err, &p)
}
