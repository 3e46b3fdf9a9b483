package client

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// Command is a program that runs in a VM.
type Command struct {
	stream *Stream
	frames *proto.Command
}

// Exec starts a program in a VM. Ctx counts until it runs.
func (c *Client) Exec(ctx context.Context, vm string, req api.ExecRequest) (*Command, error) {
	stream, err := c.upgrade(ctx, vmPath(vm, "/exec"), api.UpgradeExec, req)
	if err != nil {
		return nil, err
	}
	return &Command{stream: stream, frames: proto.NewCommand(stream)}, nil
}

// ErrLost is wrapped by the error of a command whose connection broke: the
// daemon ended, or the VM did.
var ErrLost = errors.New("the connection to the command was lost")

// lost is an error that is [ErrLost], too.
type lost struct{ told *api.Error }

func (l lost) Error() string { return l.told.Error() }

func (l lost) Is(target error) bool { return target == ErrLost }

func (l lost) Unwrap() error { return l.told }

// Run feeds the program with stdin (nil is an empty one), copies what it says
// to stdout and stderr, and gives its exit status, which is 128+n when signal
// n killed it. It is called once. Ctx's end hangs up: the guest gets a HUP, and
// ten seconds later a KILL. A read of stdin may still be under way when Run
// returns.
func (c *Command) Run(ctx context.Context, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	defer c.stream.Close()
	detach := context.AfterFunc(ctx, func() { c.stream.Close() })
	defer detach()
	out, errs := &output{Writer: stdout}, &output{Writer: stderr}
	status, err := c.frames.Run(stdin, out, errs)
	if err == nil {
		return status, nil
	}
	if ctx.Err() != nil {
		return 0, canceled(ctx)
	}
	if failed := errors.Join(out.err, errs.err); failed != nil {
		return 0, failed
	}
	return 0, explain(err)
}

// output remembers its own error, to tell it from the connection's.
type output struct {
	io.Writer
	err error
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.Writer.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}

func explain(err error) error {
	var refused *proto.ExecError
	switch {
	case errors.As(err, &refused) && refused.Kind == proto.ExecNoProgram:
		return &api.Error{Kind: api.KindNoProgram, Message: refused.Message}
	case errors.As(err, &refused):
		return &api.Error{Kind: api.KindCannotExec, Message: refused.Message}
	case errors.Is(err, proto.ErrFrame):
		return &api.Error{Kind: api.KindGuest, Message: err.Error()}
	}
	return lost{&api.Error{Kind: api.KindInternal, Message: "the connection to the command was lost: " + plain(err)}}
}

// Signal sends a signal to the program and all that it started in its group.
func (c *Command) Signal(s syscall.Signal) error { return c.frames.Signal(int(s)) }

// Resize tells the program's terminal its size.
func (c *Command) Resize(rows, cols uint16) error { return c.frames.Resize(rows, cols) }
