package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// Outcome is how a relayed command ended.
type Outcome struct {
	// Over says that the guest told the command's end; otherwise the client
	// or the guest was lost before.
	Over bool
	// Status is the exit status, 126 and 127 for a command that never ran.
	Status int
}

// ErrClientGone says that the client went before its command was over. The
// agent hangs the command up.
var ErrClientGone = errors.New("the client went away before its command was over")

// Relay joins a client to a connection that Exec returned, until the command is
// over or one of them is gone, and closes both. Nothing from the guest reaches
// the client that is not a well-formed exec frame. Memory use is one frame each
// way, and a side that does not read slows the other down.
func Relay(client, guest net.Conn) (Outcome, error) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		// However this ends, the agent must see that nobody is there any more.
		_, _ = io.Copy(onlyWriter{guest}, onlyReader{client})
		guest.Close()
	}()
	outcome, err := relayGuest(client, guest)
	if err != nil && isClosed(gone) {
		err = ErrClientGone
	}
	client.Close()
	guest.Close()
	<-gone
	return outcome, err
}

// onlyReader and onlyWriter keep io.Copy from splicing in the kernel, where a
// close of the other end could not be told from an error.
type onlyReader struct{ io.Reader }

type onlyWriter struct{ io.Writer }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func relayGuest(client io.Writer, guest io.Reader) (Outcome, error) {
	frames := proto.NewReader(guest)
	out := proto.NewWriter(client)
	for {
		f, err := frames.Next()
		if err != nil {
			return Outcome{}, fmt.Errorf("the connection to the guest ended before the command did: %w", noEOF(err))
		}
		checked, outcome, err := checkExec(f)
		if err != nil {
			return Outcome{}, err
		}
		if err := out.Frame(checked.Type, checked.Payload); err != nil {
			return outcome, ErrClientGone
		}
		if outcome.Over {
			return outcome, nil
		}
	}
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// checkExec lets through what a guest may say during a command.
func checkExec(f proto.Frame) (proto.Frame, Outcome, error) {
	switch f.Type {
	case proto.TypeStdout, proto.TypeStderr, proto.TypeStdinCredit:
		return f, Outcome{}, nil
	case proto.TypeExit:
		status, err := f.Status()
		return f, Outcome{Over: err == nil, Status: status}, err
	case proto.TypeExecError:
		return checkExecError(f)
	}
	return proto.Frame{}, Outcome{}, fmt.Errorf("%w: frame of type %d from a command", proto.ErrFrame, f.Type)
}

func checkExecError(f proto.Frame) (proto.Frame, Outcome, error) {
	var e proto.ExecError
	if err := proto.Decode(f.Payload, &e); err != nil {
		return proto.Frame{}, Outcome{}, err
	}
	if e.Kind != proto.ExecNoProgram && e.Kind != proto.ExecNoDirectory {
		e.Kind = proto.ExecCannot
	}
	e.Message = proto.Clean(e.Message, proto.MaxText)
	payload, err := json.Marshal(e)
	if err != nil {
		return proto.Frame{}, Outcome{}, fmt.Errorf("cannot encode the guest's answer: %w", err)
	}
	return proto.Frame{Type: f.Type, Payload: payload}, Outcome{Over: true, Status: e.Status()}, nil
}
