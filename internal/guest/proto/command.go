package proto

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

// Command is the client's half of an exec connection, after the agent accepted
// the request.
type Command struct {
	conn io.ReadWriter
	out  *Writer

	mu     sync.Mutex
	credit int
	more   *sync.Cond // credit came, or the command is over
	over   bool
}

// NewCommand speaks exec frames over conn, which the caller closes.
func NewCommand(conn io.ReadWriter) *Command {
	c := &Command{conn: conn, out: NewWriter(conn), credit: StdinWindow}
	c.more = sync.NewCond(&c.mu)
	return c
}

// Signal sends a signal to the command's process group.
func (c *Command) Signal(number int) error {
	if number < 1 || number > MaxSignal {
		return fmt.Errorf("cannot send signal %d: there is no such signal", number)
	}
	return c.out.Frame(TypeSignal, []byte{byte(number)})
}

// Resize tells the command's terminal its size.
func (c *Command) Resize(rows, cols uint16) error { return c.out.Resize(rows, cols) }

// Run feeds stdin (nil is an empty one) and copies out to stdout and stderr
// until the command is over, and returns its exit status. A command that never
// ran is an *ExecError; a connection that ended before the command did is
// io.ErrUnexpectedEOF or the connection's own error. Run may return while a
// read of stdin is still under way.
func (c *Command) Run(stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	go c.feed(stdin)
	defer c.finish()
	frames := NewReader(c.conn)
	for {
		f, err := frames.Next()
		if err != nil {
			return 0, noEOF(err)
		}
		switch f.Type {
		case TypeStdout:
			_, err = stdout.Write(f.Payload)
		case TypeStderr:
			_, err = stderr.Write(f.Payload)
		case TypeStdinCredit:
			c.grant(f.Uint32())
		case TypeExit:
			return f.Status()
		case TypeExecError:
			return 0, decodeExecError(f.Payload)
		default:
			err = fmt.Errorf("%w: frame of type %d from a command", ErrFrame, f.Type)
		}
		if err != nil {
			return 0, err
		}
	}
}

func decodeExecError(payload []byte) error {
	var e ExecError
	if err := Decode(payload, &e); err != nil {
		return err
	}
	return &e
}

func (c *Command) feed(stdin io.Reader) {
	if stdin != nil {
		_, err := c.out.Copy(TypeStdin, creditReader{c, stdin})
		if errors.Is(err, errOver) {
			return
		}
	}
	// A connection that does not take it any more is seen by Run.
	_ = c.out.Frame(TypeStdinEOF, nil)
}

var errOver = errors.New("the command is over")

// creditReader reads no more than the agent has room for.
type creditReader struct {
	c   *Command
	src io.Reader
}

func (r creditReader) Read(p []byte) (int, error) {
	room, err := r.c.room()
	if err != nil {
		return 0, err
	}
	n, err := r.src.Read(p[:min(len(p), room)])
	r.c.mu.Lock()
	r.c.credit -= n
	r.c.mu.Unlock()
	return n, err
}

func (c *Command) room() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.credit == 0 && !c.over {
		c.more.Wait()
	}
	if c.over {
		return 0, errOver
	}
	return c.credit, nil
}

// grant adds credit, never above the window: a lying guest must not make the
// client read without end.
func (c *Command) grant(n uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.credit = int(min(uint64(c.credit)+uint64(n), StdinWindow))
	c.more.Broadcast()
}

func (c *Command) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.more.Broadcast()
}
