// Package session is the host's half of sessions, the long-lived commands that
// a guest's agent keeps: a unix socket on the host for each of them, to which
// any program can connect. The sockets are made anew by each bangerd, since the
// sessions live on without one.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

const (
	// introduction is how long a client of a socket may take to say what it wants.
	introduction = 10 * time.Second
	// maxClients is how many clients a socket serves at once.
	maxClients = proto.MaxAttached
)

// VMs are the VMs whose agents keep sessions. A VM's id or name stands for it;
// an agent's refusals come back as errors of package api.
type VMs interface {
	List() []api.VM
	Show(nameOrID string) (api.VM, error)
	StartSession(ctx context.Context, nameOrID string, wait api.Wait, spec proto.SessionSpec) (proto.Session, error)
	AttachSession(ctx context.Context, nameOrID string, want proto.Attach) (net.Conn, proto.Attached, error)
	WithSessions(ctx context.Context, nameOrID string, do func(*host.Agent) error) error
}

// Host is the sessions of all VMs, as their host sees them.
type Host struct {
	vms VMs
	dir string // of the sockets; below it a directory per VM
	log *slog.Logger

	life context.Context // ends when the host closes
	end  context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	sockets map[string]*socket // by path
}

// New gives a host without sockets yet, in dir, which nobody else uses.
func New(vms VMs, dir string, log *slog.Logger) *Host {
	life, end := context.WithCancel(context.Background())
	return &Host{vms: vms, dir: dir, log: log, life: life, end: end, sockets: map[string]*socket{}}
}

// Recover makes the sockets of the sessions in all VMs that run: those of
// the last bangerd are nobody's. It does not wait for the guests.
func (h *Host) Recover() {
	for _, v := range h.vms.List() {
		if v.State != api.StateRunning && v.State != api.StatePaused {
			continue
		}
		h.work.Go(func() {
			if _, err := h.List(h.life, v.ID); err != nil && h.life.Err() == nil {
				h.log.Warn("cannot make the sockets of a VM's sessions", "vm", v.Name, "error", err)
			}
		})
	}
	h.Sweep()
}

// Close ends all clients of sockets. The sessions go on.
func (h *Host) Close() {
	h.end()
	h.mu.Lock()
	for _, s := range h.sockets {
		s.close()
	}
	h.mu.Unlock()
	h.work.Wait()
}

// Start starts a session, and makes its socket.
func (h *Host) Start(ctx context.Context, nameOrID string, req api.StartSession) (api.Session, error) {
	v, err := h.vms.Show(nameOrID)
	if err != nil {
		return api.Session{}, err
	}
	if req.Stdin == "" {
		req.Stdin = api.StdinPipe
	}
	s, err := h.vms.StartSession(ctx, v.ID, req.Wait, proto.SessionSpec{
		Name: req.Name, Argv: req.Argv, Env: req.Env, Cwd: req.Cwd, Stdin: proto.StdinMode(req.Stdin),
		Rows: req.Rows, Cols: req.Cols, LogLimit: req.LogLimit,
	})
	if err != nil {
		return api.Session{}, err
	}
	return h.present(v.ID, s), nil
}

// List lists a VM's sessions, oldest first.
func (h *Host) List(ctx context.Context, nameOrID string) ([]api.Session, error) {
	v, err := h.vms.Show(nameOrID)
	if err != nil {
		return nil, err
	}
	var found []proto.Session
	err = h.vms.WithSessions(ctx, v.ID, func(a *host.Agent) error {
		found, err = a.Sessions(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	list := make([]api.Session, 0, len(found))
	for _, s := range found {
		list = append(list, h.present(v.ID, s))
	}
	return list, nil
}

// Show tells of one session.
func (h *Host) Show(ctx context.Context, nameOrID, name string) (api.Session, error) {
	list, err := h.List(ctx, nameOrID)
	if err != nil {
		return api.Session{}, err
	}
	for _, s := range list {
		if s.Name == name {
			return s, nil
		}
	}
	return api.Session{}, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("VM %s has no session %q", nameOrID, name),
		Hint: fmt.Sprintf("banger vm session list %s shows the sessions there are", nameOrID)}
}

// present is a session as the API tells it. Its socket is made if it has none.
func (h *Host) present(vmID string, s proto.Session) api.Session {
	path, err := h.open(vmID, s.Name)
	if err != nil {
		h.log.Warn("cannot make a session's socket", "vm", vmID, "session", s.Name, "error", err)
	}
	return api.Session{
		Name: s.Name, Argv: s.Argv, Cwd: s.Cwd, Stdin: api.StdinMode(s.Stdin), State: api.SessionState(s.State), PID: s.PID,
		Started: s.Started, Ended: s.Ended, Status: s.Status, Reason: s.Reason,
		LogStart: s.LogStart, LogEnd: s.LogEnd, Attached: s.Attached, Socket: path,
	}
}

// Send puts input into a session.
func (h *Host) Send(ctx context.Context, nameOrID, name string, req api.SendSession) error {
	return h.vms.WithSessions(ctx, nameOrID, func(a *host.Agent) error {
		return a.SendSession(ctx, proto.SessionInput{Name: name, Data: req.Data, EOF: req.EOF})
	})
}

// Signal sends a signal to all processes of a session.
func (h *Host) Signal(ctx context.Context, nameOrID, name string, req api.SignalSession) error {
	return h.vms.WithSessions(ctx, nameOrID, func(a *host.Agent) error {
		return a.SignalSession(ctx, proto.SessionSignal{Name: name, Signal: req.Signal})
	})
}

// Stop asks a session to end; the agent kills it when its grace is over.
func (h *Host) Stop(ctx context.Context, nameOrID, name string, req api.StopSession) error {
	return h.vms.WithSessions(ctx, nameOrID, func(a *host.Agent) error {
		return a.StopSession(ctx, proto.SessionStop{Name: name, Grace: req.Grace})
	})
}

// Wait waits until a session has ended.
func (h *Host) Wait(ctx context.Context, nameOrID, name string) (api.Session, error) {
	v, err := h.vms.Show(nameOrID)
	if err != nil {
		return api.Session{}, err
	}
	var s proto.Session
	err = h.vms.WithSessions(ctx, v.ID, func(a *host.Agent) error {
		s, err = a.WaitSession(ctx, name)
		return err
	})
	if err != nil {
		return api.Session{}, err
	}
	return h.present(v.ID, s), nil
}

// Delete forgets a session that has ended, and takes its socket away.
func (h *Host) Delete(ctx context.Context, nameOrID, name string) error {
	v, err := h.vms.Show(nameOrID)
	if err != nil {
		return err
	}
	err = h.vms.WithSessions(ctx, v.ID, func(a *host.Agent) error { return a.DeleteSession(ctx, name) })
	if err != nil {
		return err
	}
	return h.remove(h.path(v.ID, name))
}

// Attach makes a client of a session. The connection goes to
// [host.RelaySession].
func (h *Host) Attach(ctx context.Context, nameOrID, name string, req api.AttachSession) (net.Conn, proto.Attached, error) {
	stream := map[string]byte{"": 0, api.StreamStdout: proto.StreamStdout, api.StreamStderr: proto.StreamStderr}
	wanted, known := stream[req.Stream]
	if !known {
		return nil, proto.Attached{}, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("a session has no stream %q", req.Stream),
			Hint: "stdout and stderr are its streams"}
	}
	return h.vms.AttachSession(ctx, nameOrID, proto.Attach{
		Name: name, From: req.From, Tail: req.Tail, Stream: wanted, Since: req.Since, Past: req.Past, Ended: req.Ended,
		Client: req.Client, Rows: req.Rows, Cols: req.Cols,
	})
}

func (h *Host) path(vmID, name string) string { return filepath.Join(h.dir, vmID, name) }

// Sweep takes away the sockets of VMs that are no more.
func (h *Host) Sweep() {
	entries, err := os.ReadDir(h.dir)
	if err != nil && !os.IsNotExist(err) {
		h.log.Warn("cannot look for sockets of deleted VMs", "error", err)
	}
	for _, e := range entries {
		if _, err := h.vms.Show(e.Name()); err == nil {
			continue
		}
		if err := h.removeAll(e.Name()); err != nil {
			h.log.Warn("cannot remove the sockets of a deleted VM", "vm", e.Name(), "error", err)
		}
	}
}

func (h *Host) removeAll(vmID string) error {
	dir := filepath.Join(h.dir, vmID)
	h.mu.Lock()
	defer h.mu.Unlock()
	for path, s := range h.sockets {
		if filepath.Dir(path) == dir {
			s.close()
			delete(h.sockets, path)
		}
	}
	return os.RemoveAll(dir)
}

func (h *Host) remove(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s, ok := h.sockets[path]; ok {
		s.close()
		delete(h.sockets, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the session's socket: %w", err)
	}
	return nil
}
