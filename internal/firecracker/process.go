package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/banger-vm/banger/internal/proc"
	"golang.org/x/sys/unix"
)

// Names in a VMM's working directory.
const (
	APISocket   = "api.sock"
	VsockSocket = "v.sock"
	// Log is what the VMM logs, a FIFO.
	Log = "firecracker.log"
	// ErrorLog is what the VMM says on stderr.
	ErrorLog = "vmm.err"
)

// Identity is the name of a VMM's process that a record can hold.
type Identity = proc.Identity

// ErrGone says that the VMM of an identity does not run any more.
var ErrGone = proc.ErrGone

// Process is a running VMM, started or adopted.
type Process struct {
	dir    string
	held   *proc.Process
	client *Client
	words  *words
	done   chan struct{}
	// released is closed by Release.
	released chan struct{}
	release  sync.Once

	mu     sync.Mutex
	status int
	known  bool
}

// Adopt takes up a VMM that an earlier daemon started in dir. It makes sure
// that the process is the one that was recorded and that the API socket in
// dir is served by it; it does not ask the API, which a paused VMM may not
// answer. [ErrGone] when that process does not run, [ErrNoAPI] when it runs
// but does not serve dir's API socket: then [Find] can still end it. After any other
// error nothing is known of it.
func Adopt(ctx context.Context, id Identity, dir string) (*Process, error) {
	p, err := Find(id, dir)
	if err != nil {
		return nil, err
	}
	if err := p.checkPeer(ctx); err != nil {
		p.Release()
		return nil, fmt.Errorf("cannot adopt the VMM in %s: %w", dir, err)
	}
	return p, nil
}

// Find takes up a VMM by its identity alone, to end it: nothing is known of
// its API.
func Find(id Identity, dir string) (*Process, error) {
	held, err := proc.Open(id)
	if err != nil {
		return nil, fmt.Errorf("cannot take up the VMM in %s: %w", dir, err)
	}
	if held.Ended() {
		held.Close()
		return nil, fmt.Errorf("cannot take up the VMM in %s: %w", dir, ErrGone)
	}
	p := newProcess(held, dir)
	go p.watch(nil)
	return p, nil
}

func newProcess(held *proc.Process, dir string) *Process {
	return &Process{
		dir:      dir,
		held:     held,
		client:   NewClient(filepath.Join(dir, APISocket)),
		words:    hear(dir),
		done:     make(chan struct{}),
		released: make(chan struct{}),
	}
}

// watch sees the process's end, and that of what it leaves behind. child is
// nil when the process is not this one's.
func (p *Process) watch(child *os.Process) {
	select {
	case <-p.held.Done():
		// A child that nobody has waited for keeps its number, so that its
		// group is still its own.
		sweep(p.Identity().PID)
	case <-p.released:
	}
	if child != nil {
		p.reap(child)
	}
	select {
	case <-p.released:
	default:
		close(p.done)
	}
}

// sweep ends what is left in the process group of a VMM that has ended, and
// waits for it: fcqemu's QEMU lives a moment longer than fcqemu, and holds its
// tap and its disk's lock for as long.
func sweep(group int) {
	members, err := proc.Group(group)
	if err != nil {
		return
	}
	for _, m := range members {
		if m.Signal(unix.SIGKILL) == nil {
			<-m.Done()
		}
		m.Close()
	}
}

func (p *Process) reap(child *os.Process) {
	state, err := child.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.status, p.known = exitStatus(state), true
	}
}

func exitStatus(state *os.ProcessState) int {
	wait := state.Sys().(syscall.WaitStatus)
	if wait.Signaled() {
		return 128 + int(wait.Signal())
	}
	return wait.ExitStatus()
}

// ErrNoAPI says that a process runs but is not what serves its API socket.
var ErrNoAPI = errors.New("the process does not serve its API socket")

// checkPeer connects to the API socket and compares who listens there, which
// works also while the process is stopped.
func (p *Process) checkPeer(ctx context.Context) error {
	conn, err := dialUnix(ctx, filepath.Join(p.dir, APISocket))
	if err != nil && (ctx.Err() != nil || lacksMeans(err)) {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w: %v", ErrNoAPI, err)
	}
	defer conn.Close()
	pid, err := peerPID(conn)
	if err != nil {
		return err
	}
	if want := p.Identity().PID; pid != want {
		return fmt.Errorf("%w: process %d does, not %d", ErrNoAPI, pid, want)
	}
	return nil
}

// lacksMeans says of an error that it is this process or its host that could not ask.
func lacksMeans(err error) bool {
	for _, lack := range []error{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS} {
		if errors.Is(err, lack) {
			return true
		}
	}
	return false
}

// peerPID is the process that called listen on the other end (SO_PEERCRED).
func peerPID(conn net.Conn) (int, error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var asked error
	err = raw.Control(func(fd uintptr) {
		cred, asked = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, asked); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// Identity names the process in a record.
func (p *Process) Identity() Identity { return p.held.Identity() }

// Dir is the VMM's working directory.
func (p *Process) Dir() string { return p.dir }

// Client speaks to the VMM's API; it is the same one each time.
func (p *Process) Client() *Client { return p.client }

// Done is closed when the process has ended and with it all of its process
// group: taps, files and locks are free then.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says whether the process has ended. Done follows a moment later.
func (p *Process) Ended() bool { return p.held.Ended() }

// Exit is how the process ended: its exit status, or 128+n when signal n
// ended it. known is false while it runs, and for ever when another daemon
// had started it: its status went to init.
func (p *Process) Exit() (status int, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.known
}

// Signal sends a signal to the VMM's process alone: SIGSTOP and SIGCONT pause
// a machine whatever its version.
func (p *Process) Signal(sig unix.Signal) error { return p.held.Signal(sig) }

// Kill ends the process and all that is in its process group, as a power cut
// would, and waits until Done or until ctx has ended. A stopped process ends
// too, and one that has ended already is no error.
func (p *Process) Kill(ctx context.Context) error {
	if err := p.kill(); err != nil && !errors.Is(err, ErrGone) {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot see the end of the killed VMM (process %d): %w", p.Identity().PID, context.Cause(ctx))
	}
}

func (p *Process) kill() error {
	// A pid that a pidfd shows alive is not another's, and a VMM leads its
	// own process group.
	if err := p.held.Signal(0); err != nil {
		return err
	}
	_ = unix.Kill(-p.Identity().PID, unix.SIGKILL)
	return p.held.Signal(unix.SIGKILL)
}

// Release lets go of the process, which runs on. When it has not ended by
// then, Done is never closed.
func (p *Process) Release() {
	p.client.Close()
	p.words.stop()
	p.release.Do(func() {
		close(p.released)
		p.held.Close()
	})
}
