package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

const (
	// sessionsDir holds a directory for each session.
	sessionsDir = "/var/lib/banger/sessions"
	// defaultLogLimit is how much of a session's output is kept.
	defaultLogLimit = 64 << 20
	maxLogLimit     = 64 << 30
	maxGrace        = time.Hour
)

// sessions are the commands that the agent keeps: those that run, and those
// that have ended, in this life of the guest or in an earlier one.
type sessions struct {
	agent *Agent
	dir   string

	mu     sync.Mutex
	byName map[string]*session // nil: not read yet
}

// call serves the operations that are over with their reply.
func (k *sessions) call(r proto.Request) (any, error) {
	switch r.Op {
	case proto.OpSessionStart:
		return decoded(r.Body, func(spec proto.SessionSpec) (any, error) { return k.start(spec) })
	case proto.OpSessionList:
		return k.list(), nil
	case proto.OpSessionSend:
		return decoded(r.Body, func(in proto.SessionInput) (any, error) {
			return nil, k.with(in.Name, func(s *session) error { return s.send(in.Data, in.EOF) })
		})
	case proto.OpSessionSignal:
		return decoded(r.Body, func(sig proto.SessionSignal) (any, error) {
			return nil, k.with(sig.Name, func(s *session) error { return s.signal(sig.Signal) })
		})
	case proto.OpSessionStop:
		return decoded(r.Body, func(stop proto.SessionStop) (any, error) {
			return nil, k.with(stop.Name, func(s *session) error { return s.stop(min(max(stop.Grace, 0), maxGrace)) })
		})
	}
	return decoded(r.Body, func(ref proto.SessionRef) (any, error) { return nil, k.delete(ref.Name) })
}

// decoded does something with a request's body.
func decoded[T any](body json.RawMessage, do func(T) (any, error)) (any, error) {
	var v T
	if err := decode(body, &v); err != nil {
		return nil, err
	}
	return do(v)
}

func (k *sessions) with(name string, do func(*session) error) error {
	s, err := k.find(name)
	if err != nil {
		return err
	}
	return do(s)
}

func (k *sessions) find(name string) (*session, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read()
	s, ok := k.byName[name]
	if !ok {
		return nil, &proto.Error{Kind: proto.ErrorNotFound, Message: fmt.Sprintf("there is no session %q", name)}
	}
	return s, nil
}

func (k *sessions) list() []proto.Session {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read()
	list := []proto.Session{}
	for _, s := range k.byName {
		list = append(list, s.describe())
	}
	slices.SortFunc(list, func(a, b proto.Session) int {
		if c := a.Started.Compare(b.Started); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// read takes up, once, what earlier lives of the guest left.
func (k *sessions) read() {
	if k.byName != nil {
		return
	}
	k.byName = map[string]*session{}
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return // there were none
	}
	for _, e := range entries {
		if len(k.byName) == proto.MaxSessions || !e.IsDir() || !proto.IsSessionName(e.Name()) {
			continue
		}
		if s, err := readSession(filepath.Join(k.dir, e.Name())); err == nil {
			k.byName[e.Name()] = s
		}
	}
}

// start starts a session, whose name is free.
func (k *sessions) start(spec proto.SessionSpec) (proto.Session, error) {
	if err := checkSpec(&spec); err != nil {
		return proto.Session{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.read()
	if old, ok := k.byName[spec.Name]; ok {
		return proto.Session{}, taken(old.describe())
	}
	if len(k.byName) >= proto.MaxSessions {
		return proto.Session{}, &proto.Error{Kind: proto.ErrorWrongState,
			Message: fmt.Sprintf("there are %d sessions, and no more can be kept: delete some that have ended", len(k.byName))}
	}
	s, err := k.begin(spec)
	if err != nil {
		return proto.Session{}, err
	}
	k.byName[spec.Name] = s
	return s.describe(), nil
}

func taken(old proto.Session) error {
	state := "runs"
	if old.State == proto.SessionEnded {
		state = "has ended, and its output is kept until it is deleted"
	}
	return &proto.Error{Kind: proto.ErrorExists, Message: fmt.Sprintf("there is a session %q already: it %s", old.Name, state)}
}

func checkSpec(spec *proto.SessionSpec) error {
	if !proto.IsSessionName(spec.Name) {
		return badRequest("%q cannot be a session's name: use 1 to 48 letters, digits, dots, hyphens and underscores, and begin with a letter or digit", spec.Name)
	}
	switch spec.Stdin {
	case proto.StdinPipe, proto.StdinPTY, proto.StdinNull:
	default:
		return badRequest("standard input can be pipe, pty or null, not %q", spec.Stdin)
	}
	if spec.LogLimit < 0 || spec.LogLimit > maxLogLimit {
		return badRequest("a session cannot keep %d bytes of output", spec.LogLimit)
	}
	if spec.LogLimit == 0 {
		spec.LogLimit = defaultLogLimit
	}
	return checkExec(proto.Exec{Argv: spec.Argv, Env: spec.Env, Cwd: spec.Cwd})
}

// begin makes the session's directory, then runs its command.
func (k *sessions) begin(spec proto.SessionSpec) (*session, error) {
	a := k.agent
	if spec.Rows == 0 || spec.Cols == 0 {
		spec.Rows, spec.Cols = standardRows, standardCols
	}
	o, err := a.orderOf(proto.Exec{
		Argv: spec.Argv, Env: spec.Env, Cwd: spec.Cwd, TTY: spec.Stdin == proto.StdinPTY, Rows: spec.Rows, Cols: spec.Cols, Container: true,
	})
	if err != nil {
		return nil, err
	}
	o.noInput = spec.Stdin == proto.StdinNull
	dir := filepath.Join(k.dir, spec.Name)
	// One whose record can't be read is nobody's.
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o700)); err != nil {
		return nil, fmt.Errorf("cannot make the session's directory: %w", err)
	}
	s, err := newSession(dir, spec, o.dir)
	if err == nil {
		err = s.run(a, o)
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

// delete takes away a session that has ended.
func (k *sessions) delete(name string) error {
	s, err := k.find(name)
	if err != nil {
		return err
	}
	if !s.isOver() {
		return &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("the session %q runs", name)}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byName[name] != s {
		return nil // another did it
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("cannot delete the session: %w", err)
	}
	delete(k.byName, name)
	return nil
}

// record is what is on disk of a session beside its output.
type record struct {
	Session  proto.Session `json:"session"`
	LogLimit int64         `json:"log_limit"`
}

func recordPath(dir string) string { return filepath.Join(dir, "session.json") }
func logDir(dir string) string     { return filepath.Join(dir, "log") }

func (r record) write(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return putFile(recordPath(dir), text, 0o600)
}

// readSession reads a session of an earlier life: whatever it did, it does no
// more.
func readSession(dir string) (*session, error) {
	text, err := os.ReadFile(recordPath(dir))
	if err != nil {
		return nil, err
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil || r.Session.Name != filepath.Base(dir) {
		return nil, errors.Join(err, errors.New("no session"))
	}
	s, err := keptSession(dir, r)
	if err != nil {
		return nil, err
	}
	if r.Session.State == proto.SessionRunning {
		s.about.State, s.about.PID, s.about.Reason = proto.SessionEnded, 0, "the guest went down while it ran"
	}
	s.over = true
	return s, nil
}

// signalNumber is a signal that a session can be sent.
func signalNumber(n int) (unix.Signal, error) {
	if n < 1 || n > proto.MaxSignal {
		return 0, badRequest("there is no signal %d", n)
	}
	return unix.Signal(n), nil
}
