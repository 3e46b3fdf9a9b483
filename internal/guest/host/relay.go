package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

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
	var outcome Outcome
	err := relay(client, guest, func(f proto.Frame) (checked proto.Frame, over bool, err error) {
		checked, outcome, err = checkExec(f)
		return checked, outcome.Over, err
	})
	return outcome, err
}

// checker lets through what a guest may say, and tells when that was the last.
type checker func(f proto.Frame) (checked proto.Frame, over bool, err error)

func relay(client, guest net.Conn, check checker) error {
	gone := make(chan struct{}) // closed when the client is
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(guestWriter{guest, client}, onlyReader{client})
		if errors.Is(err, errGuestLost) {
			return // but what it said before it went is still to be read
		}
		close(gone)
		guest.Close() // so that the agent sees that nobody is there any more
	}()
	err := relayGuest(client, guest, check)
	if err != nil && isClosed(gone) {
		err = ErrClientGone
	}
	client.Close()
	guest.Close()
	<-done
	return err
}

// errGuestLost says that the guest's connection takes no more.
var errGuestLost = errors.New("the connection to the guest is lost")

// onlyReader keeps io.Copy from other ways than reading and writing.
type onlyReader struct{ io.Reader }

// lookAfter is how long a guest may take nothing before Relay looks whether the
// client is still there: it does not read from the client meanwhile, and would
// not see it go.
const lookAfter = time.Second

// guestWriter writes to the guest for as long as the client is there. A guest
// that takes nothing may be paused, so that alone ends nothing.
type guestWriter struct{ guest, client net.Conn }

func (w guestWriter) Write(p []byte) (int, error) {
	total := 0
	for {
		if err := w.guest.SetWriteDeadline(time.Now().Add(lookAfter)); err != nil {
			return total, fmt.Errorf("%w: %w", errGuestLost, err)
		}
		n, err := w.guest.Write(p[total:])
		total += n
		if err == nil {
			return total, nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return total, fmt.Errorf("%w: %w", errGuestLost, err)
		}
		if hasGone(w.client) {
			return total, ErrClientGone
		}
	}
}

// hasGone looks whether a socket's other end is closed, whatever is still to be
// read. Of a connection that is no socket it knows nothing.
func hasGone(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	control, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = control.Control(func(fd uintptr) {
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(events, 0)
		gone = err == nil && n > 0
	})
	return gone || err != nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func relayGuest(client io.Writer, guest io.Reader, check checker) error {
	frames := proto.NewReader(guest)
	out := proto.NewWriter(client)
	for {
		f, err := frames.Next()
		if err != nil {
			return fmt.Errorf("the connection to the guest ended before the command did: %w", noEOF(err))
		}
		checked, over, err := check(f)
		if err != nil {
			return err
		}
		if err := out.Frame(checked.Type, checked.Payload); err != nil {
			return ErrClientGone
		}
		if over {
			return nil
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
