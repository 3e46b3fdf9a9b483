package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/agent/sessionlog"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// errInputEnded says that the session's input was closed by request.
var errInputEnded = errors.New("the input was closed")

// A terminal has for a moment another size than its new client's, so that a
// program which paints only when the size changes paints anew: repaintPause at
// least, and then until it has printed something, but no longer than
// repaintLimit.
const (
	repaintPause = 100 * time.Millisecond
	repaintLimit = time.Second
)

// attachment is one client that follows a session. It reads the log at its own
// pace: one that stops reading holds up nobody, and misses what the log gives
// up meanwhile.
type attachment struct {
	s      *session
	conn   net.Conn
	out    *proto.Writer
	want   proto.Attach
	sender *sender // nil: it sends no input

	// These belong to the session's lock.
	gone     bool
	credited uint64 // of sender.taken
	end      uint64 // position where its past ends
}

func (k *sessions) serveAttach(conn net.Conn, body json.RawMessage) {
	var want proto.Attach
	err := decode(body, &want)
	var s *session
	if err == nil {
		s, err = k.find(want.Name)
	}
	var at *attachment
	var answer proto.Attached
	if err == nil {
		at, answer, err = s.join(conn, want)
	}
	if err != nil {
		refuse(conn, err)
		return
	}
	defer s.leave(at)
	if accept(conn, answer) != nil {
		return
	}
	go at.receive()
	at.follow()
}

// join makes conn a client of the session.
func (s *session) join(conn net.Conn, want proto.Attach) (*attachment, proto.Attached, error) {
	switch {
	case want.Stream != 0 && want.Stream != proto.StreamStdout && want.Stream != proto.StreamStderr:
		return nil, proto.Attached{}, badRequest("a session has no stream %q", want.Stream)
	case len(want.Client) > proto.MaxText:
		return nil, proto.Attached{}, badRequest("a client's name is at most %d bytes long", proto.MaxText)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over && !want.Ended {
		return nil, proto.Attached{}, s.hasEnded()
	}
	if len(s.clients) >= proto.MaxAttached {
		return nil, proto.Attached{}, &proto.Error{Kind: proto.ErrorWrongState, Message: fmt.Sprintf("%d clients are attached to session %q, and no more can be", len(s.clients), s.about.Name)}
	}
	at := &attachment{s: s, conn: conn, out: proto.NewWriter(conn), want: want}
	start, end := s.log.Range()
	at.end = end
	if want.Tail != nil {
		at.want.From = max(start, end-min(end, *want.Tail))
	}
	answer := proto.Attached{From: min(at.want.From, end)}
	if want.Client != "" {
		at.hold(s.input.sender(want.Client))
		answer.Accepted, answer.Taken = at.sender.accepted, at.sender.taken
	}
	s.clients[at] = struct{}{}
	answer.Session = s.present()
	return at, answer, nil
}

// hold takes over a client's input from its last connection, which may not
// know yet that it is lost.
func (at *attachment) hold(from *sender) {
	if from.holder != nil {
		from.holder.gone = true
		from.holder.conn.Close()
	}
	from.holder = at
	at.sender, at.credited = from, from.taken
	at.s.changed.Broadcast()
}

func (s *session) leave(at *attachment) {
	s.change(func() {
		at.gone = true
		delete(s.clients, at)
		if at.sender != nil && at.sender.holder == at {
			at.sender.holder = nil
		}
	})
}

// receive takes the client's frames until it goes.
func (at *attachment) receive() {
	frames := proto.NewReader(at.conn)
	for {
		f, err := frames.Next()
		if err == nil {
			err = at.do(f)
		}
		if err != nil {
			break
		}
	}
	at.s.change(func() { at.gone = true })
	at.conn.Close() // a write that nobody reads ends, too
}

func (at *attachment) do(f proto.Frame) error {
	switch f.Type {
	case proto.TypeStdin:
		if at.sender == nil {
			return proto.ErrFrame
		}
		at.s.take(at, f.Payload)
	case proto.TypeStdinEOF: // this client's, not the session's
	case proto.TypeResize:
		at.resize(f.Size())
	case proto.TypeSignal:
		if p, err := at.s.running(); err == nil {
			p.signal(unix.Signal(f.Payload[0]))
		}
	default:
		return proto.ErrFrame
	}
	return nil
}

// follow sends the client what it has not seen, then what comes, and the end.
func (at *attachment) follow() {
	log := at.s.log.Reader(at.want.From)
	defer log.Close()
	for log.Position() < at.end {
		if at.give(log) != nil {
			return
		}
	}
	if at.out.Uint64s(proto.TypeSessionLive, log.Position()) != nil {
		return
	}
	if at.want.Past {
		at.finish()
		return
	}
	at.repaint()
	for {
		err := at.give(log)
		if errors.Is(err, sessionlog.ErrEnd) {
			err = at.await(log.Position())
		}
		if err == nil {
			err = at.giveCredit()
		}
		if errors.Is(err, errOver) {
			at.finish()
		}
		if err != nil {
			return
		}
	}
}

// give sends the next record, unless it is not wanted.
func (at *attachment) give(log *sessionlog.Reader) error {
	r, err := log.Next()
	if err != nil {
		return err
	}
	if r.Lost > 0 {
		return at.out.Uint64s(proto.TypeSessionLoss, r.Position, r.Position+r.Lost)
	}
	if at.want.Stream != 0 && at.want.Stream != r.Stream || r.Time.Before(at.want.Since) {
		return nil
	}
	return at.out.SessionData(proto.SessionData{Position: r.Position, Time: r.Time, Stream: r.Stream, Data: r.Data})
}

var (
	errOver = errors.New("the session is over, and all of it was sent")
	errGone = errors.New("the client is gone")
)

// await waits until there is something to send after position.
func (at *attachment) await(position uint64) error {
	at.s.mu.Lock()
	defer at.s.mu.Unlock()
	for {
		_, end := at.s.log.Range()
		switch {
		case at.gone:
			return errGone
		case end > position || at.credit() > 0:
			return nil
		case at.s.over:
			return errOver
		}
		at.s.changed.Wait()
	}
}

// credit is what the client has not been told of; the session's lock is held.
func (at *attachment) credit() uint64 {
	if at.sender == nil {
		return 0
	}
	return at.sender.taken - at.credited
}

func (at *attachment) giveCredit() error {
	at.s.mu.Lock()
	n := at.credit()
	at.credited += n
	at.s.mu.Unlock()
	if n == 0 {
		return nil
	}
	return at.out.Uint32(proto.TypeStdinCredit, uint32(n)) // a window at most
}

// finish tells that nothing more comes, and how the session is.
func (at *attachment) finish() {
	_ = at.out.JSON(proto.TypeSessionEnd, at.s.describe()) // a client that is gone needs no answer
}

// resize gives the terminal the size that the client's has now.
func (at *attachment) resize(rows, cols uint16) {
	at.s.mu.Lock()
	defer at.s.mu.Unlock()
	at.want.Rows, at.want.Cols = rows, cols
	at.s.resize(rows, cols)
}

// repaint has the terminal's program paint for the new client.
func (at *attachment) repaint() {
	at.s.mu.Lock()
	defer at.s.mu.Unlock()
	rows, cols := at.want.Rows, at.want.Cols
	if rows < 2 || cols == 0 {
		return
	}
	if !at.s.hasSize(rows, cols) {
		at.s.resize(rows, cols)
		return
	}
	_, printed := at.s.log.Range()
	at.s.resize(rows-1, cols)
	time.AfterFunc(repaintPause, func() {
		at.s.awaitOutput(printed, repaintLimit)
		at.s.mu.Lock()
		defer at.s.mu.Unlock()
		if at.s.hasSize(rows-1, cols) { // no other size has come meanwhile
			at.s.resize(rows, cols)
		}
	})
}
