package fcqemu

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/banger-vm/banger/internal/fcqemu/tsc"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// Machine is a [fcserver.Machine] that runs its guest on QEMU.
type Machine struct {
	spawn    Spawn
	counter  *tsc.Measurement
	programs []string

	done chan struct{}
	over sync.Once

	mu      sync.Mutex
	running *qemu // nil before Boot
	balloon *balloon
	status  int
}

var _ fcserver.Machine = (*Machine)(nil)

// New makes a machine that starts QEMU by spawn. It begins to measure the
// time-stamp counter: the earlier it is called the less has Boot to wait.
func New(spawn Spawn) *Machine {
	return &Machine{spawn: spawn, counter: tsc.Begin(), programs: programs, done: make(chan struct{})}
}

// Boot starts QEMU with the whole configuration.
func (m *Machine) Boot(ctx context.Context, cfg fcserver.Config, env fcserver.Env) error {
	path, err := program(m.programs)
	if err != nil {
		return err
	}
	p, err := m.processor(ctx)
	if err != nil {
		return err
	}
	if err := checkCmdline(cfg.Cmdline, p); err != nil {
		return err
	}
	cfg.Networks = withAddresses(cfg.Networks)
	q, err := launch{program: path, processor: p, spawn: m.spawn, cfg: cfg, env: env}.start(ctx)
	if err != nil {
		return err
	}
	b, err := inflate(ctx, q, cfg)
	if err != nil {
		q.kill()
		return err
	}
	m.mu.Lock()
	m.running, m.balloon = q, b
	m.mu.Unlock()
	if q.vsock != nil {
		go serveGuest(ctx, q.vsock, env.DialHost)
	}
	go m.follow(q)
	return nil
}

// processor decides how the guest's code is run.
func (m *Machine) processor(ctx context.Context) (processor, error) {
	if accelerated() {
		return processor{kvm: true}, nil
	}
	khz, err := m.counter.KHz(ctx)
	return processor{tscKHz: khz}, err
}

// follow ends the machine when the guest has reset it or QEMU is gone.
func (m *Machine) follow(q *qemu) {
	status := fcserver.ExitOK
	select {
	case <-q.reset:
		q.kill()
	case <-q.exited:
		status = statusOf(q.cmd.ProcessState)
		q.logf("QEMU is gone: %s", q.cmd.ProcessState)
	}
	m.end(status)
}

// statusOf is the status to end with after a QEMU that has ended by itself, or by
// a signal. To whoever started this program the two are one, so it ends as a shell
// does whose program was killed.
func statusOf(qemu *os.ProcessState) int {
	if wait, ok := qemu.Sys().(syscall.WaitStatus); ok && wait.Signaled() {
		return 128 + int(wait.Signal())
	}
	return fcserver.ExitGeneric
}

func (m *Machine) end(status int) {
	m.over.Do(func() {
		m.mu.Lock()
		m.status = status
		m.mu.Unlock()
		close(m.done)
	})
}

// inflate sets up the balloon as it is to be from the start; it returns nil
// when there is none.
func inflate(ctx context.Context, q *qemu, cfg fcserver.Config) (*balloon, error) {
	if cfg.Balloon == nil {
		return nil, nil
	}
	b := &balloon{memory: int64(cfg.Machine.MemSizeMiB) * mib}
	if cfg.Balloon.AmountMiB > 0 {
		if err := b.set(ctx, q, cfg.Balloon.AmountMiB); err != nil {
			return nil, err
		}
	}
	if cfg.Balloon.StatsPollingIntervalS > 0 {
		if err := b.pollStats(ctx, q, cfg.Balloon.StatsPollingIntervalS); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// withAddresses gives each interface that has none a random address of its
// own, as a Firecracker guest has: QEMU's default is the same in all guests.
func withAddresses(networks []firecracker.NetworkInterface) []firecracker.NetworkInterface {
	all := append([]firecracker.NetworkInterface{}, networks...)
	for i := range all {
		if all[i].GuestMAC == "" {
			all[i].GuestMAC = randomMAC()
		}
	}
	return all
}

// randomMAC is a unicast address of the locally administered kind.
func randomMAC() string {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac)
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}

// guest is the QEMU that runs.
func (m *Machine) guest() (*qemu, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		return nil, errors.New("the machine has not been started")
	}
	return m.running, nil
}

// Pause stops the guest's processors, and with them its time-stamp counter.
func (m *Machine) Pause(ctx context.Context) error { return m.run(ctx, "stop") }

// Resume lets them run again.
func (m *Machine) Resume(ctx context.Context) error { return m.run(ctx, "cont") }

// run has QEMU stop or continue. A guest that has powered itself off has no
// processors that could.
func (m *Machine) run(ctx context.Context, command string) error {
	q, err := m.guest()
	if err != nil || q.poweredOff() {
		return err
	}
	return q.control.Do(ctx, command, nil, nil)
}

// SendCtrlAltDel is refused.
func (m *Machine) SendCtrlAltDel(context.Context) error {
	return refuse("action_type", "QEMU's microvm has no keyboard to send CtrlAltDel with")
}

// PatchDrive is refused.
func (m *Machine) PatchDrive(_ context.Context, u fcserver.DriveUpdate) error {
	if u.RateLimiter != nil {
		return refuse("rate_limiter", noLimits)
	}
	return refuse("path_on_host", "fcqemu's drives keep their file")
}

// PatchNetwork is refused.
func (m *Machine) PatchNetwork(_ context.Context, u firecracker.NetworkInterfaceUpdate) error {
	if u.TxRateLimiter != nil {
		return refuse("tx_rate_limiter", noLimits)
	}
	return refuse("rx_rate_limiter", noLimits)
}

// SetBalloon asks the guest to give this much memory back.
func (m *Machine) SetBalloon(ctx context.Context, mib uint32) error {
	q, err := m.guest()
	if err != nil {
		return err
	}
	return m.balloon.set(ctx, q, mib)
}

// BalloonStats are the guest's last ones.
func (m *Machine) BalloonStats(ctx context.Context) (firecracker.BalloonStats, error) {
	q, err := m.guest()
	if err != nil {
		return firecracker.BalloonStats{}, err
	}
	return m.balloon.stats(ctx, q)
}

// Dial opens a stream to a vsock port of the guest.
func (m *Machine) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	q, err := m.guest()
	if err != nil {
		return nil, err
	}
	if q.vsock == nil {
		return nil, fmt.Errorf("cannot reach port %d: the guest has no vsock", port)
	}
	return q.vsock.Dial(ctx, port)
}

// Done is closed when the guest has reset the machine, QEMU is gone, or Close
// was called.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Status is the process's exit status once Done is closed.
func (m *Machine) Status() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Close kills QEMU: to the guest it is a power cut.
func (m *Machine) Close() error {
	q, err := m.guest()
	if err != nil {
		m.end(fcserver.ExitGeneric)
		return nil
	}
	q.kill()
	<-m.done
	return nil
}
