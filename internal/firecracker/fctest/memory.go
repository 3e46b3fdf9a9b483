package fctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// Memory is a machine whose guest is a Go function. Its zero value is ready
// and runs [TestGuest]. It opens the taps it is given, so that two machines
// cannot have one, writes to a real console and holds its disks open.
type Memory struct {
	// Run is the guest. When it returns the guest has powered itself off,
	// which ends no machine: [Guest.Reset] does. nil is TestGuest.
	Run func(ctx context.Context, g *Guest)

	once   sync.Once
	done   chan struct{}
	ending sync.Once
	status int

	mu    sync.Mutex
	guest *Guest
	end   context.CancelFunc
	over  chan struct{}
}

func (m *Memory) init() {
	m.once.Do(func() { m.done = make(chan struct{}) })
}

// Check refuses what a Go function cannot be given.
func (m *Memory) Check(c fcserver.Config) error {
	switch {
	case c.Machine.HugePages != firecracker.HugePagesNone:
		return &fcserver.Unsupported{Field: "huge_pages", Reason: "this machine has no memory of its own"}
	case c.Machine.CPUTemplate != "":
		return &fcserver.Unsupported{Field: "cpu_template", Reason: "this machine has no processor of its own"}
	case c.MMDS != nil:
		return &fcserver.Unsupported{Field: "mmds-config", Reason: "this machine answers no network traffic"}
	}
	for _, d := range c.Drives {
		if d.Engine == firecracker.EngineAsync {
			return &fcserver.Unsupported{Field: "io_engine", Reason: "drives are read and written synchronously"}
		}
	}
	return nil
}

// Boot starts the guest.
func (m *Memory) Boot(ctx context.Context, cfg fcserver.Config, env fcserver.Env) error {
	m.init()
	taps, err := openTaps(cfg.Networks)
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	g := newGuest(ctx, cfg, env, taps, m.finish)
	m.mu.Lock()
	m.guest, m.end, m.over = g, end, make(chan struct{})
	m.mu.Unlock()
	run := m.Run
	if run == nil {
		run = TestGuest
	}
	go func() {
		defer close(m.over)
		run(ctx, g)
	}()
	return nil
}

func openTaps(networks []firecracker.NetworkInterface) ([]*os.File, error) {
	var taps []*os.File
	for _, n := range networks {
		tap, err := fcserver.OpenTap(n.HostDevName)
		if err != nil {
			closeAll(taps)
			return nil, fmt.Errorf("cannot open the tap %s: %w", n.HostDevName, err)
		}
		taps = append(taps, tap)
	}
	return taps, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (m *Memory) finish(status int) {
	m.init()
	m.ending.Do(func() {
		m.status = status
		close(m.done)
	})
}

// Pause makes the guest's console, vsock and Step wait.
func (m *Memory) Pause(context.Context) error {
	m.guest.gate.shut()
	return nil
}

// Resume lets them go on.
func (m *Memory) Resume(context.Context) error {
	m.guest.gate.open()
	return nil
}

// SendCtrlAltDel is told to the guest, which may take no notice.
func (m *Memory) SendCtrlAltDel(context.Context) error {
	select {
	case m.guest.ctrlAltDel <- struct{}{}:
	default:
	}
	return nil
}

// PatchDrive lets the guest see another file.
func (m *Memory) PatchDrive(_ context.Context, u fcserver.DriveUpdate) error {
	if u.RateLimiter != nil {
		return &fcserver.Unsupported{Field: "rate_limiter", Reason: "this machine has no limits"}
	}
	m.guest.replaceDrive(u.ID, u.File)
	return nil
}

// PatchNetwork has nothing to change.
func (m *Memory) PatchNetwork(_ context.Context, u firecracker.NetworkInterfaceUpdate) error {
	if u.RxRateLimiter != nil || u.TxRateLimiter != nil {
		return &fcserver.Unsupported{Field: "rx_rate_limiter", Reason: "this machine has no limits"}
	}
	return nil
}

// SetBalloon is remembered.
func (m *Memory) SetBalloon(_ context.Context, mib uint32) error {
	m.guest.setBalloon(mib)
	return nil
}

// BalloonStats tells what was asked for.
func (m *Memory) BalloonStats(context.Context) (firecracker.BalloonStats, error) {
	mib := m.guest.Balloon()
	return firecracker.BalloonStats{TargetMiB: mib, ActualMiB: mib, TargetPages: mib << 8, ActualPages: mib << 8}, nil
}

// Dial reaches a listener of the guest.
func (m *Memory) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	m.mu.Lock()
	g := m.guest
	m.mu.Unlock()
	if g == nil {
		return nil, errNoListener
	}
	return g.accept(ctx, port)
}

var errNoListener = errors.New("nobody listens at that port")

// Done is closed when the guest has reset the machine, or Close was called.
func (m *Memory) Done() <-chan struct{} {
	m.init()
	return m.done
}

// Status is 0 after a reset.
func (m *Memory) Status() int { return m.status }

// Close ends the guest and waits for its function.
func (m *Memory) Close() error {
	m.finish(fcserver.ExitOK)
	m.mu.Lock()
	g, end, over := m.guest, m.end, m.over
	m.mu.Unlock()
	if g == nil {
		return nil
	}
	end()
	g.gate.open()
	<-over
	closeAll(g.taps)
	return nil
}

// gate can be shut to everyone who waits to pass.
type gate struct {
	mu     sync.Mutex
	opened chan struct{}
}

func newGate() *gate {
	g := &gate{opened: make(chan struct{})}
	close(g.opened)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
		g.opened = make(chan struct{})
	default:
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.opened:
	default:
		close(g.opened)
	}
}

func (g *gate) pass(ctx context.Context) error {
	g.mu.Lock()
	opened := g.opened
	g.mu.Unlock()
	select {
	case <-opened:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// gatedWriter is the guest's console.
type gatedWriter struct {
	ctx  context.Context
	gate *gate
	to   io.Writer
}

// Write never fails: a console that nobody reads loses its bytes.
func (w gatedWriter) Write(p []byte) (int, error) {
	if err := w.gate.pass(w.ctx); err != nil {
		return 0, err
	}
	_, _ = w.to.Write(p)
	return len(p), nil
}

// gatedConn is a guest's end of a stream.
type gatedConn struct {
	net.Conn
	ctx  context.Context
	gate *gate
}

func (c gatedConn) Read(p []byte) (int, error) {
	if err := c.gate.pass(c.ctx); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

func (c gatedConn) Write(p []byte) (int, error) {
	if err := c.gate.pass(c.ctx); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// CloseWrite ends the stream in one direction.
func (c gatedConn) CloseWrite() error {
	return c.Conn.(interface{ CloseWrite() error }).CloseWrite()
}
