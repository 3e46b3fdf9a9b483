package session_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/session"
)

// TestMain takes hang-ups: one that whoever started the tests ignores, as nohup
// does, would be ignored by every command that the tests start.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// machines are VMs whose guests are directories, each with a real agent.
type machines struct {
	mu  sync.Mutex
	all map[string]*host.Agent // by id; "box-" before it is the name
}

// add makes a machine.
func (m *machines) add(t *testing.T, id string) {
	t.Helper()
	root, err := os.MkdirTemp("", "guest") // short: socket paths end at 107 bytes
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(root) })
	socket := filepath.Join(root, "link")
	l, err := net.Listen("unix", socket)
	check(t, err)
	t.Cleanup(func() { l.Close() })
	go agent.New(agent.Options{Root: root, Version: "v1"}).Serve(l)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[string]*host.Agent{}
	}
	m.all[id] = host.New(func(ctx context.Context, _ uint32) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	})
}

func (m *machines) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.all, id)
}

func (m *machines) find(nameOrID string) (*host.Agent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.all[strings.TrimPrefix(nameOrID, "box-")]; ok {
		return a, nil
	}
	return nil, &api.Error{Kind: api.KindNotFound, Message: "there is no VM " + nameOrID}
}

func (m *machines) List() []api.VM {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []api.VM
	for id := range m.all {
		list = append(list, api.VM{ID: id, Name: "box-" + id, State: api.StateRunning})
	}
	return list
}

func (m *machines) Show(nameOrID string) (api.VM, error) {
	if _, err := m.find(nameOrID); err != nil {
		return api.VM{}, err
	}
	id := strings.TrimPrefix(nameOrID, "box-")
	return api.VM{ID: id, Name: "box-" + id, State: api.StateRunning}, nil
}

func (m *machines) StartSession(ctx context.Context, nameOrID string, _ api.Wait, spec proto.SessionSpec) (proto.Session, error) {
	a, err := m.find(nameOrID)
	if err != nil {
		return proto.Session{}, err
	}
	s, err := a.StartSession(ctx, spec)
	return s, refused(err)
}

func (m *machines) AttachSession(ctx context.Context, nameOrID string, want proto.Attach) (net.Conn, proto.Attached, error) {
	a, err := m.find(nameOrID)
	if err != nil {
		return nil, proto.Attached{}, err
	}
	conn, answer, err := a.AttachSession(ctx, want)
	return conn, answer, refused(err)
}

func (m *machines) WithSessions(_ context.Context, nameOrID string, do func(*host.Agent) error) error {
	a, err := m.find(nameOrID)
	if err != nil {
		return err
	}
	return refused(do(a))
}

func refused(err error) error {
	var told *proto.Error
	if errors.As(err, &told) {
		return &api.Error{Kind: api.Kind(told.Kind), Message: told.Message}
	}
	return err
}

// station is a host with sockets in a directory of its own, and a VM "one".
type station struct {
	*testing.T
	*session.Host
	vms *machines
	dir string
}

func newStation(t *testing.T) *station {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &station{T: t, vms: &machines{}, dir: filepath.Join(dir, "session")}
	s.vms.add(t, "one")
	s.reopen()
	return s
}

// reopen begins another daemon's life, over the directory as it is.
func (s *station) reopen() {
	s.Host = session.New(s.vms, s.dir, slog.New(slog.DiscardHandler))
	s.T.Cleanup(s.Host.Close)
}

// begin starts a session of a shell.
func (s *station) begin(name, script string) api.Session {
	s.T.Helper()
	told, err := s.Start(s.T.Context(), "box-one", api.StartSession{Name: name, Argv: []string{"bash", "-c", script}, Cwd: "/"})
	check(s.T, err)
	s.T.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.vms.WithSessions(ctx, "one", func(a *host.Agent) error {
			a.SignalSession(ctx, proto.SessionSignal{Name: name, Signal: 9})
			_, err := a.WaitSession(ctx, name)
			return err
		})
	})
	return told
}

// patience is how long a test waits for what must come.
const patience = 30 * time.Second

// socketPair gives the two ends of a connection.
func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	check(t, err)
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		ends[i], err = net.FileConn(file)
		file.Close()
		check(t, err)
	}
	return ends[0], ends[1]
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	return conn
}

// attach makes a client of a socket, which has its answer.
func attach(t *testing.T, path string, want proto.Attach) (net.Conn, proto.Attached) {
	t.Helper()
	conn := dial(t, path)
	check(t, proto.NewWriter(conn).JSON(proto.TypeAttach, want))
	var answer proto.Attached
	reply := replyOf(t, conn)
	if reply.Error != nil {
		t.Fatal(reply.Error)
	}
	check(t, proto.Decode(reply.Body, &answer))
	return conn, answer
}

func replyOf(t *testing.T, conn net.Conn) proto.Reply {
	t.Helper()
	f, err := proto.ReadFrame(conn)
	check(t, err)
	if f.Type != proto.TypeReply {
		t.Fatalf("a frame of type %d in place of an answer", f.Type)
	}
	var reply proto.Reply
	check(t, proto.Decode(f.Payload, &reply))
	return reply
}

// follow reads session frames, whose positions must join, until the output so
// far holds text, or with "" to the session's end.
func follow(t *testing.T, conn io.Reader, from uint64, text string) string {
	t.Helper()
	var out strings.Builder
	for {
		f, err := proto.ReadFrame(conn)
		if err != nil {
			t.Fatalf("%v after %q", err, out.String())
		}
		switch f.Type {
		case proto.TypeSessionData:
			d, err := f.SessionData()
			check(t, err)
			if d.Position != from {
				t.Fatalf("output at %d comes after that up to %d", d.Position, from)
			}
			from += uint64(len(d.Data))
			out.Write(d.Data)
		case proto.TypeSessionEnd:
			if text != "" {
				t.Fatalf("it ended after %q, before %q", out.String(), text)
			}
			return out.String()
		}
		if text != "" && strings.Contains(out.String(), text) {
			return out.String()
		}
	}
}

// ends waits until the other side closes the connection.
func ends(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection was not closed: %v", err)
	}
}

func isKind(t *testing.T, err error, kind api.Kind) {
	t.Helper()
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != kind {
		t.Errorf("the error is %v, want one of the kind %s", err, kind)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
