// Package qmp is a client of the QEMU Machine Protocol: JSON commands and
// replies, one a line, over a stream, with events in between. Source: QEMU's
// docs/interop/qmp-spec.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// maxLine bounds one message of QEMU's; the longest that we ask for is a few
// KiB.
const maxLine = 1 << 20

// Event is something that QEMU tells unasked, like SHUTDOWN.
type Event struct {
	Name string
	// Data is the event's own object, nil when it has none.
	Data json.RawMessage
}

// Error is a command that QEMU refused.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return e.Desc }

// ErrClosed is what commands end with when the connection has ended.
var ErrClosed = errors.New("QEMU has closed its control socket")

// Client speaks to one QEMU. Its methods may be called concurrently.
type Client struct {
	conn    io.ReadWriteCloser
	version string
	onEvent func(Event)

	writing sync.Mutex
	mu      sync.Mutex
	lastID  uint64
	waiting map[uint64]chan message
	closed  bool
	ended   chan struct{}
}

// message is anything that QEMU sends: a greeting, a reply or an event.
type message struct {
	Greeting *struct {
		Version struct {
			QEMU struct{ Major, Minor, Micro int } `json:"qemu"`
		} `json:"version"`
	} `json:"QMP"`
	ID     uint64          `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
}

type command struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments,omitempty"`
	ID        uint64 `json:"id"`
}

// New waits for QEMU's greeting on conn and ends the negotiation. From then
// on it owns conn, and calls onEvent for each event, in order, on one
// goroutine of its own: onEvent must not wait for a command.
func New(ctx context.Context, conn io.ReadWriteCloser, onEvent func(Event)) (*Client, error) {
	c := &Client{conn: conn, onEvent: onEvent, waiting: map[uint64]chan message{}, ended: make(chan struct{})}
	greeting := make(chan message, 1)
	go c.read(greeting)
	select {
	case m := <-greeting:
		v := m.Greeting.Version.QEMU
		c.version = fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	case <-c.ended:
		return nil, ErrClosed
	case <-ctx.Done():
		c.Close()
		return nil, ctx.Err()
	}
	if err := c.Do(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Version is QEMU's own, like "7.2.22".
func (c *Client) Version() string { return c.version }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Do executes one command. args is its arguments object or nil; into receives
// what it returns, unless nil. A refusal is an [*Error].
func (c *Client) Do(ctx context.Context, name string, args, into any) error {
	id, reply, err := c.expect()
	if err != nil {
		return fmt.Errorf("cannot have QEMU do %s: %w", name, err)
	}
	defer c.forget(id)
	if err := c.send(command{Execute: name, Arguments: args, ID: id}); err != nil {
		return fmt.Errorf("cannot have QEMU do %s: %w", name, err)
	}
	select {
	case m := <-reply:
		return decode(name, m, into)
	case <-c.ended:
		return fmt.Errorf("cannot have QEMU do %s: %w", name, ErrClosed)
	case <-ctx.Done():
		return fmt.Errorf("cannot have QEMU do %s: %w", name, ctx.Err())
	}
}

// Close ends the connection and waits until no event is delivered any more.
func (c *Client) Close() {
	_ = c.conn.Close()
	<-c.ended
}

func decode(name string, m message, into any) error {
	if m.Error != nil {
		return fmt.Errorf("cannot have QEMU do %s: %w", name, m.Error)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, into); err != nil {
		return fmt.Errorf("cannot read QEMU's answer to %s: %w", name, err)
	}
	return nil
}

func (c *Client) expect() (uint64, <-chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, nil, ErrClosed
	}
	c.lastID++
	reply := make(chan message, 1)
	c.waiting[c.lastID] = reply
	return c.lastID, reply, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Client) send(cmd command) error {
	line, err := json.Marshal(cmd)
	if err != nil {
		return err
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err = c.conn.Write(append(line, '\n'))
	return err
}

// read delivers messages until the connection ends.
func (c *Client) read(greeting chan<- message) {
	defer c.end()
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	greeted := false
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return // a QEMU that no longer speaks the protocol is as good as gone
		}
		switch {
		case m.Greeting != nil && !greeted:
			greeted = true
			greeting <- m
		case m.Event != "":
			c.onEvent(Event{Name: m.Event, Data: m.Data})
		default:
			c.deliver(m)
		}
	}
}

func (c *Client) deliver(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reply, ok := c.waiting[m.ID]; ok {
		delete(c.waiting, m.ID)
		reply <- m
	}
}

func (c *Client) end() {
	_ = c.conn.Close()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	close(c.ended)
}
