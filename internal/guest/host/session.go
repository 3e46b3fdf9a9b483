package host

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// StartSession starts a session.
func (a *Agent) StartSession(ctx context.Context, spec proto.SessionSpec) (proto.Session, error) {
	var s proto.Session
	err := a.ask(ctx, proto.OpSessionStart, spec, &s)
	if err == nil {
		s, err = checkNamed(s, spec.Name)
	}
	return s, within("cannot start the session", err)
}

// Sessions lists the guest's sessions.
func (a *Agent) Sessions(ctx context.Context) ([]proto.Session, error) {
	var list []proto.Session
	err := a.ask(ctx, proto.OpSessionList, nil, &list)
	if err == nil {
		err = checkSessions(list)
	}
	if err != nil {
		return nil, within("cannot list the guest's sessions", err)
	}
	return list, nil
}

// SendSession puts input into a session, which is not torn apart by others'.
func (a *Agent) SendSession(ctx context.Context, in proto.SessionInput) error {
	return within("cannot send to the session", a.ask(ctx, proto.OpSessionSend, in, nil))
}

// SignalSession sends a signal to all processes of a session.
func (a *Agent) SignalSession(ctx context.Context, s proto.SessionSignal) error {
	return within("cannot signal the session", a.ask(ctx, proto.OpSessionSignal, s, nil))
}

// StopSession asks a session to end; it returns before it has.
func (a *Agent) StopSession(ctx context.Context, s proto.SessionStop) error {
	return within("cannot stop the session", a.ask(ctx, proto.OpSessionStop, s, nil))
}

// DeleteSession forgets a session that has ended.
func (a *Agent) DeleteSession(ctx context.Context, name string) error {
	return within("cannot delete the session", a.ask(ctx, proto.OpSessionDelete, proto.SessionRef{Name: name}, nil))
}

// WaitSession waits, as long as ctx allows, until a session has ended.
func (a *Agent) WaitSession(ctx context.Context, name string) (proto.Session, error) {
	conn, err := a.call(ctx, proto.OpSessionWait, proto.SessionRef{Name: name}, nil)
	if err != nil {
		return proto.Session{}, within("cannot wait for the session", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s, err := readEnd(conn, name)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return s, within("cannot wait for the session", err)
}

func readEnd(conn net.Conn, name string) (proto.Session, error) {
	f, err := proto.ReadFrame(conn)
	if err != nil {
		return proto.Session{}, fmt.Errorf("the connection to the guest ended before the session did: %w", noEOF(err))
	}
	if f.Type != proto.TypeSessionEnd {
		return proto.Session{}, fmt.Errorf("%w: frame of type %d in place of a session's end", proto.ErrFrame, f.Type)
	}
	var s proto.Session
	if err := proto.Decode(f.Payload, &s); err != nil {
		return proto.Session{}, err
	}
	return checkNamed(s, name)
}

// AttachSession makes a client of a session. The connection carries session
// frames from here on, and goes to RelaySession.
func (a *Agent) AttachSession(ctx context.Context, want proto.Attach) (net.Conn, proto.Attached, error) {
	var answer proto.Attached
	conn, err := a.call(ctx, proto.OpSessionAttach, want, &answer)
	if err == nil {
		if answer, err = checkAttached(answer, want.Name); err != nil {
			conn.Close()
		}
	}
	if err != nil {
		return nil, proto.Attached{}, within("cannot attach to the session", err)
	}
	return conn, answer, nil
}

// RelaySession joins a client to a connection that AttachSession returned, until
// the session is over or one of them is gone, and closes both. Nothing from the
// guest reaches the client that is not a well-formed session frame whose
// position lies after that of the one before.
func RelaySession(client, guest net.Conn, name string) error {
	c := following{name: name}
	return relay(client, guest, c.check)
}

// following is what is known of the session frames that came.
type following struct {
	name string
	next uint64 // the least position that may come
	live bool
}

func (c *following) check(f proto.Frame) (proto.Frame, bool, error) {
	switch f.Type {
	case proto.TypeSessionData:
		d, err := f.SessionData()
		if err != nil {
			return f, false, err
		}
		return f, false, c.advance(d.Position, d.Position+uint64(len(d.Data)))
	case proto.TypeSessionLoss:
		from, to, err := f.Loss()
		if err != nil {
			return f, false, err
		}
		return f, false, c.advance(from, to)
	case proto.TypeSessionLive:
		if c.live {
			return f, false, fmt.Errorf("%w: what is past ended twice", proto.ErrFrame)
		}
		c.live = true
		return f, false, c.advance(f.Uint64(), f.Uint64())
	case proto.TypeStdinCredit:
		return f, false, nil
	case proto.TypeSessionEnd:
		return checkEnd(f, c.name)
	}
	return f, false, fmt.Errorf("%w: frame of type %d from a session", proto.ErrFrame, f.Type)
}

// advance takes note of output from one position up to another.
func (c *following) advance(from, to uint64) error {
	if from < c.next || to < from {
		return fmt.Errorf("%w: output of a session comes twice", proto.ErrFrame)
	}
	c.next = to
	return nil
}

func checkEnd(f proto.Frame, name string) (proto.Frame, bool, error) {
	var s proto.Session
	if err := proto.Decode(f.Payload, &s); err != nil {
		return f, false, err
	}
	s, err := checkNamed(s, name)
	if err != nil {
		return f, false, err
	}
	payload, err := json.Marshal(s)
	if err != nil {
		return f, false, fmt.Errorf("cannot encode the guest's answer: %w", err)
	}
	return proto.Frame{Type: f.Type, Payload: payload}, true, nil
}

func checkAttached(a proto.Attached, name string) (proto.Attached, error) {
	if a.Taken > a.Accepted || a.Accepted-a.Taken > proto.StdinWindow {
		return a, fmt.Errorf("%w: more input was taken than came, or more came than may", proto.ErrFrame)
	}
	var err error
	a.Session, err = checkNamed(a.Session, name)
	return a, err
}

func checkSessions(list []proto.Session) error {
	if len(list) > proto.MaxSessions {
		return fmt.Errorf("%w: %d sessions", proto.ErrFrame, len(list))
	}
	seen := map[string]bool{}
	for i, s := range list {
		if seen[s.Name] {
			return fmt.Errorf("%w: two sessions of one name", proto.ErrFrame)
		}
		seen[s.Name] = true
		var err error
		if list[i], err = checkSession(s); err != nil {
			return err
		}
	}
	return nil
}

func checkNamed(s proto.Session, name string) (proto.Session, error) {
	if s.Name != name {
		return proto.Session{}, fmt.Errorf("%w: another session than was asked for", proto.ErrFrame)
	}
	return checkSession(s)
}

// maxArgs is the longest command that is shown.
const maxArgs = 4096

// checkSession lets through what has a meaning, cleaned.
func checkSession(s proto.Session) (proto.Session, error) {
	known := s.Stdin == proto.StdinPipe || s.Stdin == proto.StdinPTY || s.Stdin == proto.StdinNull
	switch {
	case !proto.IsSessionName(s.Name):
		return proto.Session{}, fmt.Errorf("%w: a session with a name that none can have", proto.ErrFrame)
	case !known || s.State != proto.SessionRunning && s.State != proto.SessionEnded:
		return proto.Session{}, fmt.Errorf("%w: a session in no known state", proto.ErrFrame)
	case s.Status != nil && (*s.Status < 0 || *s.Status > proto.MaxStatus):
		return proto.Session{}, fmt.Errorf("%w: exit status %d", proto.ErrFrame, *s.Status)
	case s.LogStart > s.LogEnd || s.PID < 0 || s.Attached < 0 || len(s.Argv) > maxArgs:
		return proto.Session{}, fmt.Errorf("%w: a session with impossible numbers", proto.ErrFrame)
	}
	argv := make([]string, len(s.Argv))
	for i, arg := range s.Argv {
		argv[i] = proto.Clean(arg, proto.MaxText)
	}
	s.Argv = argv
	s.Cwd = proto.Clean(s.Cwd, proto.MaxText)
	s.Reason = proto.Clean(s.Reason, proto.MaxText)
	s.Started, s.Ended = plainTime(s.Started), plainTime(s.Ended)
	return s, nil
}

// plainTime is a time in UTC, whatever zone a guest has made up.
func plainTime(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}
