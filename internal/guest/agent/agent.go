// Package agent is the program that banger keeps in every guest: it gives the
// guest its identity when the host says so, runs commands, serves SSH, and
// tells the host how far the guest's own start has come and why it goes down.
//
// It is started by banger-init, chrooted into the image's root, before the
// image's own init; it needs nothing of the image, and works while the image is
// still starting. It is reached over AF_VSOCK, and where there is no such
// device over the virtio-serial port that internal/guest/serialmux describes.
// The protocol is internal/guest/proto.
package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/workspace"
)

// Options say where an Agent works.
type Options struct {
	Root    string // where the guest's files are: "/" in a guest
	Version string // of banger
	Kernel  Kernel
	// Cgroups is the cgroup v2 directory that gets one child for each command;
	// without it commands stay in the agent's own group.
	Cgroups string
	// SSHD is where an SSH server of the image's listens; empty: 127.0.0.1:22.
	SSHD string
	// Configured, if not nil, is called once, when the host has given the guest
	// its identity, or tried to, and the image's init may begin.
	Configured func()
	// HeadStart is how long the image's init waits for a command that goes
	// first; zero: DefaultHeadStart.
	HeadStart time.Duration
}

// DefaultHeadStart is enough for a short command where processors are emulated
// and shared with other guests that boot, and little beside the start of an init
// there.
const DefaultHeadStart = 300 * time.Millisecond

// Agent serves one guest.
type Agent struct {
	root    string
	version string
	kernel  Kernel
	init    proto.InitKind
	events  *history
	groups  *cgroups
	kept    *sessions
	diary   *diary
	sshd    *sshd

	workspaces *workspace.Server

	configuring sync.Mutex // one configure call at a time
	configured  func()
	headStart   time.Duration
	commandOver func()        // is called at the end of each command
	firstOver   chan struct{} // closed at the end of the first one

	mu       sync.Mutex
	identity identity
}

// identity is what later calls need of the configuration.
type identity struct {
	env     map[string]string
	keys    []string
	hostKey string
	host    string
	// container is how the image wants its commands to be run.
	container proto.Container
}

// New returns an Agent that has not been configured yet.
func New(o Options) *Agent {
	a := &Agent{root: o.Root, version: o.Version, kernel: o.Kernel, groups: &cgroups{dir: o.Cgroups}}
	a.configured = sync.OnceFunc(func() {
		if o.Configured != nil {
			o.Configured()
		}
	})
	a.headStart = cmp.Or(o.HeadStart, DefaultHeadStart)
	a.firstOver = make(chan struct{})
	a.commandOver = sync.OnceFunc(func() { close(a.firstOver) })
	a.init = readInit(a.path(initFile))
	a.events = newHistory(a.hello())
	a.kept = &sessions{agent: a, dir: a.path(sessionsDir)}
	a.diary = newDiary()
	a.sshd = &sshd{agent: a, addr: cmp.Or(o.SSHD, "127.0.0.1:22")}
	a.workspaces = &workspace.Server{Env: func() []string { return a.rootEnv(nil, false) }, Tooling: a.startTooling}
	return a
}

// path is where the guest's file name is.
func (a *Agent) path(name string) string { return filepath.Join(a.root, name) }

func (a *Agent) present() identity {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.identity
}

// Serve answers connections of l until l is closed.
func (a *Agent) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("cannot accept connections of the host: %w", err)
		}
		go a.ServeConn(conn)
	}
}

// ServeConn answers one connection and closes it.
func (a *Agent) ServeConn(conn net.Conn) {
	defer conn.Close()
	f, err := proto.ReadFrame(conn)
	if err != nil {
		return // nobody to answer to
	}
	request, err := parseRequest(f)
	if err != nil {
		refuse(conn, err)
		return
	}
	a.serve(conn, request)
}

func parseRequest(f proto.Frame) (proto.Request, error) {
	var r proto.Request
	if f.Type != proto.TypeRequest {
		return r, badRequest("a connection must begin with a request, not with a frame of type %d", f.Type)
	}
	if err := proto.Decode(f.Payload, &r); err != nil {
		return r, badRequest("%v", err)
	}
	return r, nil
}

func (a *Agent) serve(conn net.Conn, r proto.Request) {
	switch r.Op {
	case proto.OpExec:
		a.serveExec(conn, r.Body)
	case proto.OpWatch:
		a.serveWatch(conn)
	case proto.OpSSH:
		a.serveSSH(conn)
	case proto.OpDial:
		serveDial(conn, r.Body)
	case proto.OpLogs:
		a.serveLogs(conn, r.Body)
	case proto.OpPut:
		a.servePut(conn, r.Body)
	case proto.OpGet:
		a.serveGet(conn, r.Body)
	case proto.OpWorkspace:
		if accept(conn, nil) == nil {
			a.workspaces.Serve(conn)
		}
	case proto.OpShutdown:
		a.serveShutdown(conn, r.Body)
	case proto.OpSessionAttach:
		a.kept.serveAttach(conn, r.Body)
	case proto.OpSessionWait:
		a.kept.serveWait(conn, r.Body)
	default:
		a.serveCall(conn, r)
	}
}

// serveCall serves the operations that are over with their reply.
func (a *Agent) serveCall(conn net.Conn, r proto.Request) {
	body, err := a.call(r)
	if err != nil {
		refuse(conn, err)
		return
	}
	_ = accept(conn, body) // a host that is gone needs no answer
}

func (a *Agent) call(r proto.Request) (any, error) {
	switch r.Op {
	case proto.OpInfo:
		return a.hello(), nil
	case proto.OpConfigure:
		var c proto.Config
		if err := decode(r.Body, &c); err != nil {
			return nil, err
		}
		return nil, a.beConfigured(c)
	case proto.OpSetTime:
		var s proto.SetTime
		if err := decode(r.Body, &s); err != nil {
			return nil, err
		}
		return nil, a.kernel.SetClock(s.Time)
	case proto.OpCredential:
		var c proto.Credential
		if err := decode(r.Body, &c); err != nil {
			return nil, err
		}
		return nil, a.setCredential(c)
	case proto.OpSessionStart, proto.OpSessionList, proto.OpSessionSend, proto.OpSessionSignal, proto.OpSessionStop, proto.OpSessionDelete:
		return a.kept.call(r)
	}
	return nil, badRequest("this agent (%s) does not know the operation %q", a.version, r.Op)
}

// beConfigured is a configure call. Whatever comes of it, the image's init
// begins.
func (a *Agent) beConfigured(c proto.Config) error {
	if err := a.Configure(c); err != nil || !c.CommandFirst {
		a.configured()
		return err
	}
	go func() {
		select {
		case <-a.firstOver:
		case <-time.After(a.headStart):
		}
		a.configured()
	}()
	return nil
}

func decode(body json.RawMessage, v any) error {
	if err := proto.Decode(body, v); err != nil {
		return badRequest("%v", err)
	}
	return nil
}

func badRequest(format string, args ...any) error {
	return &proto.Error{Kind: proto.ErrorBadRequest, Message: fmt.Sprintf(format, args...)}
}

// accept sends the reply of a request that was done, with body unless it is nil.
func accept(conn net.Conn, body any) error {
	var reply proto.Reply
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("cannot encode an answer: %w", err)
		}
		reply.Body = encoded
	}
	return proto.NewWriter(conn).JSON(proto.TypeReply, reply)
}

// refuse sends the reply of a request that failed.
func refuse(conn net.Conn, err error) {
	var e *proto.Error
	if !errors.As(err, &e) {
		e = &proto.Error{Kind: proto.ErrorFailed, Message: err.Error()}
	}
	if len(e.Message) > proto.MaxText {
		e.Message = e.Message[:proto.MaxText]
	}
	_ = proto.NewWriter(conn).JSON(proto.TypeReply, proto.Reply{Error: e}) // a host that is gone needs no answer
}
