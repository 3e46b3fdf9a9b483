package proto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Connect makes a connection to a session, which carries session frames.
type Connect func(context.Context, Attach) (io.ReadWriteCloser, Attached, error)

// Attachment is a client's half of an attached session, over as many
// connections as it takes: where one is lost it goes on with the next, and
// neither direction loses or repeats a byte.
type Attachment struct {
	connect Connect
	ctx     context.Context
	want    Attach
	session Session
	frames  *Reader

	writing sync.Mutex // one Write at a time
	sending sync.Mutex // one frame of input at a time, none while it is connected anew

	mu     sync.Mutex
	more   *sync.Cond // room, or the end
	conn   io.ReadWriteCloser
	out    *Writer
	unread []byte // input that the command was not given yet, as far as is known
	given  uint64 // how much before that it was given
	over   bool
}

// Output is one thing that an attached client gets.
type Output struct {
	SessionData // valid until the next call
	// Lost is how many bytes from Position on are not kept any more.
	Lost uint64
	// Live says that all before Position is from before the attachment.
	Live bool
}

// OpenAttachment attaches to a session. Ctx's end ends the attachment.
func OpenAttachment(ctx context.Context, want Attach, connect Connect) (*Attachment, error) {
	a := &Attachment{connect: connect, ctx: ctx, want: want}
	a.more = sync.NewCond(&a.mu)
	if err := a.open(); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { a.Close() })
	return a, nil
}

// Session is the session as it was when it was last told: after Next's io.EOF,
// at its end.
func (a *Attachment) Session() Session { return a.session }

// open connects, and sends what has not come yet of the input.
func (a *Attachment) open() error {
	a.mu.Lock()
	want := a.want
	a.mu.Unlock()
	conn, answer, err := a.connect(a.ctx, want)
	if err != nil {
		return err
	}
	a.sending.Lock()
	defer a.sending.Unlock()
	a.mu.Lock()
	a.session, a.want.From = answer.Session, answer.From
	late, err := a.settle(answer)
	if a.over {
		err = errOver
	}
	if err != nil {
		a.mu.Unlock()
		conn.Close()
		return err
	}
	a.conn, a.out, a.frames = conn, NewWriter(conn), NewReader(conn)
	a.more.Broadcast()
	a.mu.Unlock()
	for len(late) > 0 {
		n := min(len(late), MaxData)
		if a.out.Frame(TypeStdin, late[:n]) != nil {
			break // Next sees that the connection is lost
		}
		late = late[n:]
	}
	return nil
}

// settle forgets the input that was given, and returns what has not come.
func (a *Attachment) settle(answer Attached) ([]byte, error) {
	sent := a.given + uint64(len(a.unread))
	if a.want.Client != "" && (answer.Taken < a.given || answer.Taken > answer.Accepted || answer.Accepted > sent) {
		return nil, fmt.Errorf("%w: %d bytes of input came, %d were sent", ErrFrame, answer.Accepted, sent)
	}
	if a.want.Client == "" {
		return nil, nil
	}
	a.unread = a.unread[answer.Taken-a.given:]
	a.given = answer.Taken
	return append([]byte(nil), a.unread[answer.Accepted-answer.Taken:]...), nil
}

// Next returns what comes next; io.EOF is the end. It is used by one goroutine.
func (a *Attachment) Next() (Output, error) {
	for {
		f, err := a.frames.Next()
		if err == nil {
			out, wanted, err := a.take(f)
			if wanted || err != nil {
				return out, err
			}
			continue
		}
		if errors.Is(err, ErrFrame) || a.isOver() {
			return Output{}, err
		}
		if err := a.reopen(); err != nil {
			return Output{}, err
		}
	}
}

// reopen goes on where the connection was lost.
func (a *Attachment) reopen() error {
	a.mu.Lock()
	a.conn.Close()
	a.mu.Unlock()
	a.want.Tail, a.want.Ended = nil, true
	return a.open()
}

// take takes a frame; wanted says whether it is for the caller.
func (a *Attachment) take(f Frame) (out Output, wanted bool, err error) {
	switch f.Type {
	case TypeSessionData:
		d, err := f.SessionData()
		a.want.From = d.Position + uint64(len(d.Data))
		return Output{SessionData: d}, err == nil, err
	case TypeSessionLoss:
		from, to, err := f.Loss()
		a.want.From = to
		return Output{SessionData: SessionData{Position: from}, Lost: to - from}, err == nil, err
	case TypeSessionLive:
		return Output{SessionData: SessionData{Position: f.Uint64()}, Live: true}, true, nil
	case TypeStdinCredit:
		a.grant(f.Uint32())
		return Output{}, false, nil
	case TypeSessionEnd:
		if err := Decode(f.Payload, &a.session); err != nil {
			return Output{}, false, err
		}
		a.Close()
		return Output{}, false, io.EOF
	}
	return Output{}, false, fmt.Errorf("%w: frame of type %d from a session", ErrFrame, f.Type)
}

func (a *Attachment) grant(n uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	taken := min(int(n), len(a.unread))
	a.unread = a.unread[taken:]
	a.given += uint64(taken)
	a.more.Broadcast()
}

// Write sends input. What is at most MaxData bytes long is not torn apart by
// the input of others. It waits while StdinWindow bytes are under way.
func (a *Attachment) Write(p []byte) (int, error) {
	a.writing.Lock()
	defer a.writing.Unlock()
	total := 0
	for total < len(p) {
		n := min(len(p)-total, MaxData)
		if err := a.room(n); err != nil {
			return total, err
		}
		a.send(p[total : total+n])
		total += n
	}
	return total, nil
}

func (a *Attachment) room(n int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.unread)+n > StdinWindow && !a.over {
		a.more.Wait()
	}
	if a.over {
		return errOver
	}
	return nil
}

func (a *Attachment) send(p []byte) {
	a.sending.Lock()
	defer a.sending.Unlock()
	a.mu.Lock()
	a.unread = append(a.unread, p...)
	out := a.out
	a.mu.Unlock()
	// A connection that is lost is seen by Next, and what was not sent is sent
	// over the next one.
	_ = out.Frame(TypeStdin, p)
}

// Resize tells the session's terminal the size of this client's.
func (a *Attachment) Resize(rows, cols uint16) {
	a.mu.Lock()
	a.want.Rows, a.want.Cols = rows, cols
	out := a.out
	a.mu.Unlock()
	_ = out.Resize(rows, cols) // over a new connection it is told anyway
}

// Signal sends a signal to the command's process group, under a terminal to the
// group in its foreground.
func (a *Attachment) Signal(number int) error {
	if number < 1 || number > MaxSignal {
		return fmt.Errorf("cannot send signal %d: there is no such signal", number)
	}
	a.mu.Lock()
	out := a.out
	a.mu.Unlock()
	return out.Frame(TypeSignal, []byte{byte(number)})
}

func (a *Attachment) isOver() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// Close detaches. The session goes on.
func (a *Attachment) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
	a.more.Broadcast()
	if a.conn == nil {
		return nil
	}
	return a.conn.Close()
}
