package fctest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"golang.org/x/sys/unix"
)

// Guest is what a [Memory] machine's guest function sees of its machine.
type Guest struct {
	// Config is the machine as it was booted.
	Config fcserver.Config
	// Console is the serial console. Writing to it never fails.
	Console io.Writer
	// CtrlAltDel brings one value for each press of the keys.
	CtrlAltDel <-chan struct{}

	ctx        context.Context
	gate       *gate
	taps       []*os.File
	ctrlAltDel chan struct{}
	reset      func(status int)
	dialHost   func(ctx context.Context, port uint32) (net.Conn, error)

	mu        sync.Mutex
	listeners map[uint32]*guestListener
	balloon   uint32
}

func newGuest(ctx context.Context, cfg fcserver.Config, env fcserver.Env, taps []*os.File, reset func(int)) *Guest {
	keys := make(chan struct{}, 1)
	g := &Guest{
		Config: cfg, CtrlAltDel: keys,
		ctx: ctx, gate: newGate(), taps: taps, ctrlAltDel: keys, reset: reset, dialHost: env.DialHost,
		listeners: map[uint32]*guestListener{},
	}
	g.Console = gatedWriter{ctx, g.gate, env.Out}
	if cfg.Balloon != nil {
		g.balloon = cfg.Balloon.AmountMiB
	}
	return g
}

// Step waits while the machine is paused. It fails when the machine ends.
func (g *Guest) Step() error { return g.gate.pass(g.ctx) }

// Reset ends the machine as a guest's reboot does, with status 0.
func (g *Guest) Reset() { g.reset(fcserver.ExitOK) }

// Balloon is how much memory the host asks for, in MiB.
func (g *Guest) Balloon() uint32 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.balloon
}

func (g *Guest) setBalloon(mib uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.balloon = mib
}

// Drive is the n-th disk, from 0.
func (g *Guest) Drive(n int) fcserver.Drive {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Config.Drives[n]
}

func (g *Guest) replaceDrive(id string, file *fcserver.File) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.Config.Drives {
		if g.Config.Drives[i].ID == id && file != nil {
			g.Config.Drives[i].File = file
		}
	}
}

// Tap is the n-th network interface's end on the host, from 0: what is
// written to it arrives at the host.
func (g *Guest) Tap(n int) *os.File { return g.taps[n] }

// DialHost connects to a vsock port of the host.
func (g *Guest) DialHost(ctx context.Context, port uint32) (net.Conn, error) {
	if g.dialHost == nil {
		return nil, fmt.Errorf("cannot reach the host: this machine has no vsock")
	}
	conn, err := g.dialHost(ctx, port)
	if err != nil {
		return nil, err
	}
	return gatedConn{conn, g.ctx, g.gate}, nil
}

// Listen takes connections to a vsock port of the guest.
func (g *Guest) Listen(port uint32) (net.Listener, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, taken := g.listeners[port]; taken {
		return nil, fmt.Errorf("vsock port %d is taken", port)
	}
	l := &guestListener{port: port, guest: g, conns: make(chan net.Conn), closed: make(chan struct{})}
	g.listeners[port] = l
	context.AfterFunc(g.ctx, func() { l.Close() })
	return l, nil
}

func (g *Guest) accept(ctx context.Context, port uint32) (net.Conn, error) {
	g.mu.Lock()
	l := g.listeners[port]
	g.mu.Unlock()
	if l == nil {
		return nil, errNoListener
	}
	host, guest, err := socketPair()
	if err != nil {
		return nil, err
	}
	select {
	case l.conns <- gatedConn{guest, g.ctx, g.gate}:
		return host, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	host.Close()
	guest.Close()
	return nil, errNoListener
}

// socketPair is a stream that closes by halves.
func socketPair() (host, guest net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	if host, err = fileConn(fds[0]); err != nil {
		unix.Close(fds[1])
		return nil, nil, err
	}
	if guest, err = fileConn(fds[1]); err != nil {
		host.Close()
		return nil, nil, err
	}
	return host, guest, nil
}

func fileConn(fd int) (net.Conn, error) {
	file := os.NewFile(uintptr(fd), "vsock")
	defer file.Close()
	return net.FileConn(file)
}

// guestListener is a vsock port of the guest.
type guestListener struct {
	port   uint32
	guest  *Guest
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *guestListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *guestListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.guest.mu.Lock()
		delete(l.guest.listeners, l.port)
		l.guest.mu.Unlock()
	})
	return nil
}

func (l *guestListener) Addr() net.Addr {
	return &net.UnixAddr{Name: fmt.Sprintf("guest:%d", l.port), Net: "vsock"}
}
