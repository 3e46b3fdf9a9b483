package vm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/forward"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// The names of the files in a VMM's own directory, where it runs.
const (
	kernelFile  = "kernel"
	initrdFile  = "initrd"
	baseFile    = "base"
	cowFile     = "cow"
	modulesFile = "modules"
	guestCID    = 3
)

// run is one life of a VMM: the process, its console, and the guest that
// answers over the link.
type run struct {
	process *firecracker.Process
	ports   portSet
	agent   *host.Agent
	console *console
	hello   net.Listener

	// halted says that the VMM has been told to pause and not yet to run on. It
	// belongs to who has the VM's turn.
	halted bool

	ctx     context.Context // ends when the run is let go of or over
	stop    context.CancelFunc
	greeter sync.WaitGroup

	mu      sync.Mutex
	changed chan struct{} // closed and renewed when one of these changes
	ready   bool          // the agent is configured
	noShell bool          // root has no shell to log in to
	stages  map[proto.Stage]bool
	goodbye proto.Reason
	trouble error    // why the agent could not be configured
	told    []string // what a person should know of the guest's introduction
	settled chan struct{}
}

func newRun(life context.Context, runDir string, console *console) *run {
	ctx, stop := context.WithCancel(life)
	uds := filepath.Join(runDir, firecracker.VsockSocket)
	return &run{
		console: console,
		ctx:     ctx,
		stop:    stop,
		changed: make(chan struct{}),
		stages:  map[proto.Stage]bool{},
		ports:   portSet{open: map[int]*forward.Port{}, failed: map[int]error{}},
		settled: make(chan struct{}),
		agent: host.New(func(ctx context.Context, port uint32) (net.Conn, error) {
			return dialGuest(ctx, uds, port)
		}),
	}
}

// A VMM hangs up on who dials a guest that does not answer within 2 seconds,
// as it does when nobody listens. In a guest that has said hello somebody does,
// so on a busy host, and after a resume, it is worth to ask again.
const (
	dialPatience = 10 * time.Second
	dialPause    = 100 * time.Millisecond
)

// dialLimit is far more than a VMM takes to answer, or to hang up. One that
// hangs, or was stopped, does neither.
const dialLimit = 20 * time.Second

var errVMMHangs = fmt.Errorf("its VMM has not answered for %v", dialLimit)

// dialGuest connects to a port of a guest whose agent is up.
func dialGuest(ctx context.Context, uds string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, dialLimit, errVMMHangs)
	defer cancel()
	for deadline := time.Now().Add(dialPatience); ; {
		conn, err := firecracker.DialVsock(ctx, uds, port)
		if !errors.Is(err, firecracker.ErrNoListener) || time.Now().After(deadline) {
			return conn, err
		}
		select {
		case <-time.After(dialPause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// listenHello opens the socket that the guest's agent dials when it is up.
func listenHello(runDir string, uid int) (net.Listener, error) {
	path := filepath.Join(runDir, firecracker.VsockSocket+"_"+strconv.Itoa(int(proto.HelloPort)))
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot listen for the guest: %w", err)
	}
	l.SetUnlinkOnClose(false) // the next daemon's socket may be there by then
	if err := unix.Lchown(path, uid, -1); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot give the guest's socket to the VMM: %w", err)
	}
	return l, nil
}

// greet waits for the agent's hello, however late, configures it and takes
// note of what it says afterwards. It ends with the run.
func (r *run) greet(configure func(context.Context, *host.Agent) error) {
	r.greeter.Go(func() {
		stop := context.AfterFunc(r.ctx, func() { r.hello.Close() })
		defer stop()
		for {
			conn, err := r.hello.Accept()
			if err != nil {
				return
			}
			events, err := host.Accept(r.ctx, conn)
			if err != nil {
				r.note(func() { r.trouble = err })
				continue
			}
			r.follow(events, configure)
		}
	})
}

// watchPause is how long a guest is left alone that did not answer: it may be
// starved, or stopped.
const watchPause = 5 * time.Second

// watch is greet for a guest whose hello another daemon heard.
func (r *run) watch(configure func(context.Context, *host.Agent) error) {
	r.greeter.Go(func() {
		for r.ctx.Err() == nil {
			events, err := r.agent.Watch(r.ctx)
			if err == nil {
				r.follow(events, configure)
				return
			}
			r.note(func() { r.trouble = err })
			select {
			case <-time.After(watchPause):
			case <-r.ctx.Done():
			}
		}
	})
}

func (r *run) follow(events *host.Events, configure func(context.Context, *host.Agent) error) {
	defer events.Close()
	if err := configure(r.ctx, r.agent); err != nil {
		r.note(func() { r.trouble = err })
		return
	}
	r.note(func() { r.ready, r.noShell, r.trouble = true, events.Hello.NoShell, nil })
	for {
		event, err := events.Next(r.ctx)
		if err != nil {
			return
		}
		r.note(func() {
			switch event.Kind {
			case proto.EventReady:
				r.stages[event.Stage] = true
			case proto.EventGoodbye:
				r.goodbye = event.Reason
			}
		})
	}
}

func (r *run) note(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *run) isReady() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ready
}

// hasNoShell says whether root has no shell; that of a guest that is not ready is not
// known.
func (r *run) hasNoShell() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.noShell
}

func (r *run) farewell() proto.Reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.goodbye
}

// over says whether the VMM has ended, also when nobody has been told yet.
func (r *run) over() bool { return r.process.Ended() }

// errVMMEnded is the end of a VMM while its guest was waited for.
var errVMMEnded = errors.New("the VMM ended")

// await waits until the guest has come as far as wait says.
func (r *run) await(ctx context.Context, wait api.Wait) error {
	for {
		r.mu.Lock()
		there, trouble, changed := r.reached(wait), r.trouble, r.changed
		r.mu.Unlock()
		switch {
		case r.over(): // it will be told in a moment
		case there:
			return nil
		case trouble != nil:
			return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("cannot configure the guest: %v", trouble)}
		}
		select {
		case <-changed:
		case <-r.process.Done():
			return errVMMEnded
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (r *run) reached(wait api.Wait) bool {
	switch wait {
	case api.WaitAgent:
		return r.ready
	case api.WaitSystem:
		return r.ready && r.stages[proto.StageSystem]
	default:
		return r.ready && r.stages[proto.StageDefault]
	}
}

// letGo stops watching the VMM, which runs on.
func (r *run) letGo() {
	r.stop()
	r.closePorts()
	if r.hello != nil {
		r.hello.Close()
	}
	r.greeter.Wait()
	r.console.letGo()
	if r.process != nil {
		r.process.Release()
	}
}
