package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/agent/sessionlog"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// session is one command that is kept, whoever is attached to it.
type session struct {
	dir   string
	limit int64
	log   *sessionlog.Log

	mu      sync.Mutex
	changed *sync.Cond // output came, or any of these changed
	about   proto.Session
	p       *process // nil in an earlier life
	over    bool     // it has ended, and all its output is in the log
	rows    uint16   // of its terminal
	cols    uint16
	clients map[*attachment]struct{}
	input   inbox
}

func newSession(dir string, spec proto.SessionSpec, cwd string) (*session, error) {
	return keptSession(dir, record{LogLimit: spec.LogLimit, Session: proto.Session{
		Name: spec.Name, Argv: shown(spec.Argv), Cwd: cwd, Stdin: spec.Stdin, State: proto.SessionRunning, Started: time.Now(),
	}})
}

// maxShown is how much of its command a session tells: the list of all of them
// is one message.
const maxShown = 2 << 10

// shown is what a session tells of its command.
func shown(argv []string) []string {
	var short []string
	left := maxShown
	for _, arg := range argv {
		if len(arg)+1 > left {
			return append(short, strings.ToValidUTF8(arg[:max(left-1, 0)], "")+"…")
		}
		short = append(short, arg)
		left -= len(arg) + 1
	}
	return short
}

// keptSession opens, or makes, what is on disk of a session.
func keptSession(dir string, r record) (*session, error) {
	if err := os.MkdirAll(logDir(dir), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the session's log: %w", err)
	}
	log, err := sessionlog.Open(logDir(dir), r.LogLimit)
	if err != nil {
		return nil, err
	}
	s := &session{dir: dir, limit: r.LogLimit, log: log, about: r.Session, clients: map[*attachment]struct{}{}}
	s.changed = sync.NewCond(&s.mu)
	s.input.clients = map[string]*sender{}
	return s, nil
}

// run runs the session's command; s is in nobody else's hands yet.
func (s *session) run(a *Agent, o order) error {
	if err := s.save(); err != nil {
		return err
	}
	p, err := a.start(o)
	if err != nil {
		return refusal(err)
	}
	s.p, s.about.PID = p, p.proc.Pid
	s.rows, s.cols = o.rows, o.cols
	if p.stdin != nil {
		go s.feed()
	}
	go s.keep()
	return nil
}

// refusal is the answer to a command that never ran.
func refusal(err error) error {
	var e *proto.ExecError
	switch {
	case !errors.As(err, &e):
		return err
	case e.Kind == proto.ExecNoProgram:
		return &proto.Error{Kind: proto.ErrorNoProgram, Message: e.Message}
	}
	return &proto.Error{Kind: proto.ErrorCannotExec, Message: e.Message}
}

// keep takes all that the command prints, to its end.
func (s *session) keep() {
	var pumps sync.WaitGroup
	for i, o := range s.p.outputs {
		pumps.Go(func() { s.pump([]byte{proto.StreamStdout, proto.StreamStderr}[i], o) })
	}
	pumps.Wait()
	<-s.p.done
	s.end()
}

func (s *session) pump(stream byte, o *output) {
	buf := make([]byte, proto.MaxData)
	for {
		n, err := o.Read(buf)
		if n > 0 {
			// What could not be kept is told as lost; the command goes on.
			_ = s.log.Append(stream, time.Now(), buf[:n])
			s.change(func() {})
		}
		if err != nil {
			return
		}
	}
}

func (s *session) end() {
	s.log.Close()
	s.change(func() {
		status := s.p.status
		s.about.State, s.about.PID, s.about.Ended, s.about.Status = proto.SessionEnded, 0, time.Now(), &status
		if err := s.save(); err != nil {
			fmt.Fprintf(os.Stderr, "banger-vsock-agent: cannot keep the end of session %s: %v\n", s.about.Name, err)
		}
		s.over = true
	})
	s.p.closeFiles()
}

// save writes the session's record.
func (s *session) save() error { return record{Session: s.about, LogLimit: s.limit}.write(s.dir) }

// change changes something that others wait for.
func (s *session) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	s.changed.Broadcast()
}

func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

func (s *session) describe() proto.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present()
}

// present is what is known of the session; s.mu is held.
func (s *session) present() proto.Session {
	now := s.about
	now.LogStart, now.LogEnd = s.log.Range()
	now.Attached = len(s.clients)
	return now
}

// running gives the command of a session that has not ended.
func (s *session) running() (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, s.hasEnded()
	}
	return s.p, nil
}

// hasEnded is the error of a session that has ended; s.mu is held.
func (s *session) hasEnded() error {
	how := s.about.Reason
	if s.about.Status != nil {
		how = fmt.Sprintf("with status %d at %s", *s.about.Status, s.about.Ended.UTC().Format(time.RFC3339))
	}
	return &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("the session %q has ended: %s", s.about.Name, how)}
}

// signal sends a signal to all processes of the session.
func (s *session) signal(number int) error {
	sig, err := signalNumber(number)
	if err != nil {
		return err
	}
	p, err := s.running()
	if err != nil {
		return err
	}
	signalSession(p.proc.Pid, p.group, sig)
	return nil
}

// stop asks the session's processes to end, and kills what is left of them when
// grace is over.
func (s *session) stop(grace time.Duration) error {
	p, err := s.running()
	if err != nil {
		return err
	}
	signalSession(p.proc.Pid, p.group, unix.SIGTERM)
	signalSession(p.proc.Pid, p.group, unix.SIGCONT) // a stopped process hears nothing
	time.AfterFunc(grace, func() {
		// Without a group the number may be another's by now.
		if p.group != nil || !p.over() {
			signalSession(p.proc.Pid, p.group, unix.SIGKILL)
		}
	})
	return nil
}

// resize gives the session's terminal the size of its latest client's; s.mu is
// held.
func (s *session) resize(rows, cols uint16) {
	if rows == 0 || cols == 0 || s.over || s.p == nil {
		return
	}
	s.rows, s.cols = rows, cols
	_ = s.p.resize(rows, cols) // it may just have ended
}

// hasSize tells the size of the session's terminal; s.mu is held.
func (s *session) hasSize(rows, cols uint16) bool {
	return s.rows == rows && s.cols == cols
}

// awaitOutput waits until there is output after a position, the end, or limit.
func (s *session) awaitOutput(position uint64, limit time.Duration) {
	late := false
	timer := time.AfterFunc(limit, func() { s.change(func() { late = true }) })
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !late && !s.over {
		if _, end := s.log.Range(); end > position {
			return
		}
		s.changed.Wait()
	}
}

// serveWait answers when the session has ended.
func (k *sessions) serveWait(conn net.Conn, body json.RawMessage) {
	var ref proto.SessionRef
	err := decode(body, &ref)
	var s *session
	if err == nil {
		s, err = k.find(ref.Name)
	}
	if err != nil {
		refuse(conn, err)
		return
	}
	if accept(conn, nil) != nil {
		return
	}
	gone := false
	go func() {
		// The host sends nothing here: what ends this read is its going away.
		_, _ = conn.Read(make([]byte, 1))
		s.change(func() { gone = true })
	}()
	s.mu.Lock()
	for !s.over && !gone {
		s.changed.Wait()
	}
	now := s.present()
	s.mu.Unlock()
	_ = proto.NewWriter(conn).JSON(proto.TypeSessionEnd, now) // a host that is gone needs no answer
}
