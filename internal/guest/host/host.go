// Package host is the host's end of the guest link: it calls the agent, and it
// trusts nothing that comes back. Every answer is bounded in length and, up to
// the first byte of a stream, in time; texts are cleaned of what could drive a
// terminal; statuses and names outside their range are refused.
package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// AnswerTimeout bounds how long the agent may take to answer a request, unless
// the caller's context ends before. A guest in software emulation on a busy
// machine needs seconds.
const AnswerTimeout = 60 * time.Second

// Dialer connects to a port of the guest.
type Dialer func(ctx context.Context, port uint32) (net.Conn, error)

// Agent calls the agent of one guest. Each call is a connection of its own.
type Agent struct{ dial Dialer }

// New returns an Agent that is reached by dial.
func New(dial Dialer) *Agent { return &Agent{dial} }

// Configure gives the guest its identity and surroundings.
func (a *Agent) Configure(ctx context.Context, c proto.Config) error {
	return within("cannot configure the guest", a.ask(ctx, proto.OpConfigure, c, nil))
}

// Info asks the agent who it is.
func (a *Agent) Info(ctx context.Context) (proto.Hello, error) {
	var h proto.Hello
	err := a.ask(ctx, proto.OpInfo, nil, &h)
	if err == nil {
		h, err = checkHello(h)
	}
	return h, within("cannot ask the guest's agent who it is", err)
}

// Shutdown asks the guest's init to go down; it returns before it has.
func (a *Agent) Shutdown(ctx context.Context, s proto.Shutdown) error {
	return within("cannot ask the guest to shut down", a.ask(ctx, proto.OpShutdown, s, nil))
}

// SetTime sets the guest's clock by the host's.
func (a *Agent) SetTime(ctx context.Context) error {
	return within("cannot set the guest's clock", a.ask(ctx, proto.OpSetTime, timeWhenSent{}, nil))
}

// timeWhenSent is a [proto.SetTime] of the moment at which it is sent: to reach
// a busy guest takes a while.
type timeWhenSent struct{}

func (timeWhenSent) MarshalJSON() ([]byte, error) {
	return json.Marshal(proto.SetTime{Time: time.Now()})
}

// Credential gives the guest a secret file that its disk never holds, or takes
// it back.
func (a *Agent) Credential(ctx context.Context, c proto.Credential) error {
	return within("cannot give the guest "+c.Path, a.ask(ctx, proto.OpCredential, c, nil))
}

// Put returns a connection on which the guest takes a tree of files; see
// package filetree.
func (a *Agent) Put(ctx context.Context, p proto.Put) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpPut, p, nil)
	return conn, within("cannot copy to "+p.Path, err)
}

// Get returns a connection on which the guest sends a tree of files. Nothing of
// it has been looked at: that is for who receives it.
func (a *Agent) Get(ctx context.Context, g proto.Get) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpGet, g, nil)
	return conn, within("cannot copy from "+g.Path, err)
}

// Watch returns the guest's events, from its start on.
func (a *Agent) Watch(ctx context.Context) (*Events, error) {
	conn, err := a.call(ctx, proto.OpWatch, nil, nil)
	if err != nil {
		return nil, within("cannot watch the guest", err)
	}
	return Accept(ctx, conn)
}

// Exec starts a command. The connection carries exec frames from here on, and
// goes to Relay.
func (a *Agent) Exec(ctx context.Context, e proto.Exec) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpExec, e, nil)
	return conn, within("cannot run the command in the guest", err)
}

// SSH returns a connection to an SSH server of the guest: its own, else the
// agent's.
func (a *Agent) SSH(ctx context.Context) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpSSH, nil, nil)
	return conn, within("cannot reach the guest's SSH server", err)
}

// Dial connects to addr within the guest; network is tcp or unix. Each direction
// of the connection can end alone.
func (a *Agent) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpDial, proto.Dial{Network: network, Addr: addr}, nil)
	if err != nil {
		return nil, within("cannot connect within the guest", err)
	}
	return stream{conn, proto.NewWriter(conn)}, nil
}

// Workspace returns a connection that speaks internal/workspace/wire.
func (a *Agent) Workspace(ctx context.Context) (net.Conn, error) {
	conn, err := a.call(ctx, proto.OpWorkspace, nil, nil)
	return conn, within("cannot reach the guest's workspaces", err)
}

// Logs returns the guest's kernel log and journal. With follow it goes on until
// it is closed.
func (a *Agent) Logs(ctx context.Context, follow bool) (*LogReader, error) {
	conn, err := a.call(ctx, proto.OpLogs, proto.Logs{Follow: follow}, nil)
	if err != nil {
		return nil, within("cannot read the guest's log", err)
	}
	return &LogReader{conn: conn, frames: proto.NewReader(conn)}, nil
}

func within(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ask is a call that ends with its reply.
func (a *Agent) ask(ctx context.Context, op proto.Op, body, reply any) error {
	conn, err := a.call(ctx, op, body, reply)
	if err != nil {
		return err
	}
	return conn.Close()
}

// call sends one request and reads its reply. The connection is then free of
// deadlines.
func (a *Agent) call(ctx context.Context, op proto.Op, body, reply any) (net.Conn, error) {
	conn, err := a.dial(ctx, proto.AgentPort)
	if err != nil {
		return nil, err
	}
	err = limited(ctx, conn, func() error { return exchange(conn, op, body, reply) })
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func exchange(conn net.Conn, op proto.Op, body, reply any) error {
	request := proto.Request{Op: op}
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("cannot encode the request: %w", err)
		}
		request.Body = encoded
	}
	if err := proto.NewWriter(conn).JSON(proto.TypeRequest, request); err != nil {
		return fmt.Errorf("cannot send to the guest's agent: %w", err)
	}
	return readReply(conn, reply)
}

func readReply(conn net.Conn, body any) error {
	f, err := proto.ReadFrame(conn)
	if err != nil {
		return fmt.Errorf("cannot read the answer of the guest's agent: %w", err)
	}
	if f.Type != proto.TypeReply {
		return fmt.Errorf("%w: frame of type %d in place of an answer", proto.ErrFrame, f.Type)
	}
	var reply proto.Reply
	if err := proto.Decode(f.Payload, &reply); err != nil {
		return err
	}
	if reply.Error != nil {
		return checkError(*reply.Error)
	}
	if body == nil {
		return nil
	}
	return proto.Decode(reply.Body, body)
}

// checkError makes the guest's own error fit to be shown.
func checkError(e proto.Error) error {
	switch e.Kind {
	case proto.ErrorBadRequest, proto.ErrorNotFound, proto.ErrorExists, proto.ErrorWrongState, proto.ErrorNoProgram, proto.ErrorCannotExec:
	default:
		e.Kind = proto.ErrorFailed
	}
	e.Message = proto.Clean(e.Message, proto.MaxText)
	if e.Message == "" {
		e.Message = "the guest's agent gave no reason"
	}
	return &e
}

// limited runs talk, which reads and writes conn, and breaks it off when ctx
// ends or AnswerTimeout is over.
func limited(ctx context.Context, conn net.Conn, talk func() error) error {
	ctx, cancel := context.WithTimeout(ctx, AnswerTimeout)
	defer cancel()
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = conn.SetDeadline(time.Unix(1, 0)) // a closed one needs none
	})
	err := talk()
	if !stop() {
		<-stopped
	}
	if err == nil || ctx.Err() == nil {
		_ = conn.SetDeadline(time.Time{})
		return err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the guest's agent did not answer in time: %w", context.Cause(ctx))
	}
	return err
}
