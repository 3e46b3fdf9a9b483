package fcqemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/fcqemu/qmp"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"github.com/banger-vm/banger/internal/guest/serialmux"
)

// qemu is one running QEMU.
type qemu struct {
	cmd     *exec.Cmd
	control *qmp.Client
	vsock   *serialmux.Mux // nil without a vsock
	logf    func(format string, args ...any)

	// reset is closed when the guest has reset the machine, off when it has
	// powered itself off, exited when the process is gone and all that it
	// wrote has been passed on.
	reset, off, exited chan struct{}
	resetOnce, offOnce sync.Once

	mu       sync.Mutex
	lastLine string // of its stderr
}

// launch is what starting a QEMU takes.
type launch struct {
	program   string
	processor processor
	spawn     Spawn
	cfg       fcserver.Config
	env       fcserver.Env
}

// start runs QEMU and returns when the guest's processors run. ctx ends the
// attempt, not the QEMU that came of it.
func (l launch) start(ctx context.Context) (*qemu, error) {
	q := &qemu{logf: l.env.Logf, reset: make(chan struct{}), off: make(chan struct{}), exited: make(chan struct{})}
	p, err := newPlumbing(l.cfg)
	if err != nil {
		return nil, err
	}
	c := newCommand(l.cfg, l.processor, channels{control: p.theirControl, vsock: p.theirVsock, taps: p.taps})
	q.cmd = &exec.Cmd{
		Path: l.program, Args: append([]string{l.program}, c.args...), ExtraFiles: c.files, Env: []string{},
		Stdout: p.theirSerial, Stderr: p.theirStderr,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL},
	}
	if l.env.In != nil {
		q.cmd.Stdin = l.env.In
	}
	err = l.spawn(q.cmd)
	p.closeTheirs()
	if err != nil {
		p.closeOurs()
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	go q.follow(p, l.env.Out)
	if p.vsock != nil {
		q.vsock = serialmux.Host(p.vsock)
	}
	if err := q.handshake(ctx, p.control); err != nil {
		q.kill()
		return nil, q.explain(err)
	}
	return q, nil
}

// handshake waits until QEMU's main loop answers: it does when the machine is
// made, and the processors have been told to run.
func (q *qemu) handshake(ctx context.Context, conn net.Conn) error {
	control, err := qmp.New(ctx, conn, q.event)
	if err != nil {
		return err
	}
	q.control = control
	var status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := control.Do(ctx, "query-status", nil, &status); err != nil {
		return err
	}
	if !status.Running && status.Status != "shutdown" {
		return fmt.Errorf("QEMU does not run the guest, its state is %q", status.Status)
	}
	q.logf("QEMU %s runs the guest as process %d", control.Version(), q.cmd.Process.Pid)
	return nil
}

// explain says why QEMU could not start, in its own words where it ended with
// some.
func (q *qemu) explain(err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case errors.Is(err, qmp.ErrClosed) && q.lastLine != "":
		return fmt.Errorf("cannot start QEMU: %s", q.lastLine)
	case errors.Is(err, qmp.ErrClosed):
		return fmt.Errorf("cannot start QEMU: it ended with %s and no word", q.cmd.ProcessState)
	}
	return fmt.Errorf("cannot start QEMU: %w", err)
}

// follow passes on what QEMU writes until it is gone, and reaps it.
func (q *qemu) follow(p *plumbing, out *os.File) {
	var relays sync.WaitGroup
	relays.Add(2)
	go func() {
		defer relays.Done()
		relaySerial(out, p.serial)
		_ = p.serial.Close()
	}()
	go func() {
		defer relays.Done()
		q.readStderr(p.stderr)
		_ = p.stderr.Close()
	}()
	_ = q.cmd.Wait() // how it ended is in ProcessState
	relays.Wait()
	_ = p.control.Close()
	if p.vsock != nil {
		_ = p.vsock.Close()
	}
	close(q.exited)
}

func (q *qemu) readStderr(from io.Reader) {
	lines := bufio.NewReader(from)
	for {
		line, _, err := lines.ReadLine()
		if err != nil {
			return
		}
		if len(line) == 0 {
			continue
		}
		q.logf("QEMU: %s", line)
		q.mu.Lock()
		q.lastLine = string(line)
		q.mu.Unlock()
	}
}

// kill ends QEMU at once and waits until it is gone.
func (q *qemu) kill() {
	_ = q.cmd.Process.Kill() // it fails only when QEMU is gone already
	<-q.exited
}

// plumbing is how this process and one QEMU are connected, with both ends.
type plumbing struct {
	control, vsock net.Conn // vsock is nil without one
	serial, stderr *os.File

	theirControl, theirVsock, theirSerial, theirStderr *os.File
	taps                                               []*os.File
}

func newPlumbing(cfg fcserver.Config) (*plumbing, error) {
	p := &plumbing{}
	if err := p.open(cfg); err != nil {
		p.closeTheirs()
		p.closeOurs()
		return nil, fmt.Errorf("cannot connect to a QEMU to be: %w", err)
	}
	return p, nil
}

func (p *plumbing) open(cfg fcserver.Config) (err error) {
	for _, n := range cfg.Networks {
		tap, err := fcserver.OpenTap(n.HostDevName)
		if err != nil {
			return err
		}
		p.taps = append(p.taps, tap)
	}
	if p.control, p.theirControl, err = socketPair("control"); err != nil {
		return err
	}
	if cfg.Vsock != nil {
		if p.vsock, p.theirVsock, err = socketPair("vsock"); err != nil {
			return err
		}
	}
	if p.serial, p.theirSerial, err = os.Pipe(); err != nil {
		return err
	}
	p.stderr, p.theirStderr, err = os.Pipe()
	return err
}

func (p *plumbing) closeTheirs() {
	theirs := append([]*os.File{p.theirControl, p.theirVsock, p.theirSerial, p.theirStderr}, p.taps...)
	for _, f := range theirs {
		_ = f.Close() // a nil file says so, and nothing else
	}
}

func (p *plumbing) closeOurs() {
	for _, c := range []net.Conn{p.control, p.vsock} {
		if c != nil {
			_ = c.Close()
		}
	}
	_ = p.serial.Close()
	_ = p.stderr.Close()
}

// socketPair is a connection and, as a file to be inherited, its other end.
func socketPair(name string) (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), name)
	ours := os.NewFile(uintptr(fds[0]), name)
	defer ours.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
