package client

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
)

func sessionPath(vm, session, rest string) string {
	return vmPath(vm, "/sessions/"+url.PathEscape(session)+rest)
}

// StartSession starts a long-lived command that the guest keeps.
func (c *Client) StartSession(ctx context.Context, vm string, req api.StartSession) (api.Session, error) {
	var s api.Session
	return s, c.call(ctx, http.MethodPost, vmPath(vm, "/sessions"), req, &s)
}

// Sessions lists a VM's sessions, also those that have ended, oldest first.
func (c *Client) Sessions(ctx context.Context, vm string) ([]api.Session, error) {
	var list []api.Session
	return list, c.call(ctx, http.MethodGet, vmPath(vm, "/sessions"), nil, &list)
}

// Session tells of one session.
func (c *Client) Session(ctx context.Context, vm, session string) (api.Session, error) {
	var s api.Session
	return s, c.call(ctx, http.MethodGet, sessionPath(vm, session, ""), nil, &s)
}

// SendSession puts input into a session, without attaching to it.
func (c *Client) SendSession(ctx context.Context, vm, session string, req api.SendSession) error {
	return c.call(ctx, http.MethodPost, sessionPath(vm, session, "/send"), req, nil)
}

// StopSession asks a session to end. It returns before it has; WaitSession
// tells when.
func (c *Client) StopSession(ctx context.Context, vm, session string, req api.StopSession) error {
	return c.call(ctx, http.MethodPost, sessionPath(vm, session, "/stop"), req, nil)
}

// SignalSession sends a signal to all processes of a session.
func (c *Client) SignalSession(ctx context.Context, vm, session string, req api.SignalSession) error {
	return c.call(ctx, http.MethodPost, sessionPath(vm, session, "/signal"), req, nil)
}

// WaitSession waits until a session has ended, also over the end of a daemon.
func (c *Client) WaitSession(ctx context.Context, vm, session string) (api.Session, error) {
	for try := 0; ; try++ {
		var s api.Session
		err := c.call(ctx, http.MethodPost, sessionPath(vm, session, "/wait"), nil, &s)
		if err == nil || !worthAnotherTry(err) || !pause(ctx, try) {
			return s, err
		}
	}
}

// DeleteSession forgets a session that has ended, and its output.
func (c *Client) DeleteSession(ctx context.Context, vm, session string) error {
	return c.call(ctx, http.MethodDelete, sessionPath(vm, session, ""), nil, nil)
}

// Attachment is a client of a session. It outlives lost connections: when one
// breaks, because the daemon was killed for example, it goes on over the next,
// and neither direction loses or repeats a byte.
type Attachment struct{ frames *proto.Attachment }

// SessionOutput is one thing that an attached client gets.
type SessionOutput struct {
	Position uint64 // of the first byte of Data
	Time     time.Time
	Stderr   bool   // Data is from standard error
	Data     []byte // valid until the next call
	// Lost is how many bytes from Position on are not kept any more.
	Lost uint64
	// Live says that all before Position is from before the attachment.
	Live bool
}

// AttachSession makes a client of a session. With input, what is written to it
// reaches the session's standard input. Ctx's end detaches; the session goes
// on.
func (c *Client) AttachSession(ctx context.Context, vm, session string, req api.AttachSession, input bool) (*Attachment, error) {
	if input && req.Client == "" {
		req.Client = rand.Text()
	}
	first := true
	connect := func(ctx context.Context, want proto.Attach) (io.ReadWriteCloser, proto.Attached, error) {
		if !first {
			// What came and what the terminal is now, the frames know.
			req.From, req.Tail, req.Ended, req.Rows, req.Cols = want.From, nil, want.Ended, want.Rows, want.Cols
		}
		stream, answer, err := c.attach(ctx, vm, session, req, !first)
		first = false
		return stream, answer, err
	}
	frames, err := proto.OpenAttachment(ctx, proto.Attach{Client: req.Client, Rows: req.Rows, Cols: req.Cols}, connect)
	if err != nil {
		return nil, explainSession(err)
	}
	return &Attachment{frames}, nil
}

// attach connects, and with patient tries again while the daemon comes up.
func (c *Client) attach(ctx context.Context, vm, session string, req api.AttachSession, patient bool) (io.ReadWriteCloser, proto.Attached, error) {
	for try := 0; ; try++ {
		stream, answer, err := c.attachOnce(ctx, vm, session, req)
		if err == nil {
			return stream, answer, nil
		}
		if !patient || !worthAnotherTry(err) || !pause(ctx, try) {
			return nil, answer, err
		}
	}
}

func (c *Client) attachOnce(ctx context.Context, vm, session string, req api.AttachSession) (*Stream, proto.Attached, error) {
	var answer proto.Attached
	stream, err := c.upgrade(ctx, sessionPath(vm, session, "/attach"), api.UpgradeSession, req)
	if err != nil {
		return nil, answer, err
	}
	if err := readAttached(stream, &answer); err != nil {
		stream.Close()
		return nil, answer, c.broken(ctx, err)
	}
	return stream, answer, nil
}

func readAttached(stream io.Reader, answer *proto.Attached) error {
	f, err := proto.ReadFrame(stream)
	if err != nil {
		return err
	}
	var reply proto.Reply
	if err := proto.Decode(f.Payload, &reply); err != nil {
		return err
	}
	return proto.Decode(reply.Body, answer)
}

// A lost daemon is back within a moment, or within a minute where it has many
// VMs to take up.
const (
	firstPause = 50 * time.Millisecond
	tries      = 10
)

// worthAnotherTry says whether a call failed for the daemon's sake alone.
func worthAnotherTry(err error) bool {
	var told *api.Error
	return errors.As(err, &told) && (told.Kind == api.KindInternal || told.Kind == api.KindHost)
}

// pause waits before a try is made again, if it is to be.
func pause(ctx context.Context, try int) bool {
	if try == tries {
		return false
	}
	select {
	case <-time.After(firstPause << try):
		return true
	case <-ctx.Done():
		return false
	}
}

// Next gives what comes next. The end of the session, or of what is there of
// it, is io.EOF. It is used by one goroutine.
func (a *Attachment) Next() (SessionOutput, error) {
	o, err := a.frames.Next()
	if err != nil {
		return SessionOutput{}, explainSession(err)
	}
	return SessionOutput{Position: o.Position, Time: o.Time, Stderr: o.Stream == proto.StreamStderr, Data: o.Data, Lost: o.Lost, Live: o.Live}, nil
}

// Copy copies what comes to stdout and stderr until the end, and gives the
// session as it is then. Lost is called where output is not kept any more; it
// may be nil.
func (a *Attachment) Copy(stdout, stderr io.Writer, lost func(bytes uint64)) (api.Session, error) {
	for {
		o, err := a.Next()
		if errors.Is(err, io.EOF) {
			return a.Session(), nil
		}
		if err != nil {
			return api.Session{}, err
		}
		if o.Lost > 0 && lost != nil {
			lost(o.Lost)
		}
		to := stdout
		if o.Stderr {
			to = stderr
		}
		if _, err := to.Write(o.Data); err != nil {
			return api.Session{}, err
		}
	}
}

// Session is the session when it was attached to and, after io.EOF, at its end.
func (a *Attachment) Session() api.Session {
	s := a.frames.Session()
	return api.Session{
		Name: s.Name, Argv: s.Argv, Cwd: s.Cwd, Stdin: api.StdinMode(s.Stdin), State: api.SessionState(s.State), PID: s.PID,
		Started: s.Started, Ended: s.Ended, Status: s.Status, Reason: s.Reason,
		LogStart: s.LogStart, LogEnd: s.LogEnd, Attached: s.Attached,
	}
}

// Write sends input. At most 64 KiB at once are not torn apart by the input of
// other clients.
func (a *Attachment) Write(p []byte) (int, error) {
	n, err := a.frames.Write(p)
	return n, explainSession(err)
}

// Resize tells the session's terminal the size of this client's.
func (a *Attachment) Resize(rows, cols uint16) { a.frames.Resize(rows, cols) }

// Close detaches. The session goes on.
func (a *Attachment) Close() error { return a.frames.Close() }

func explainSession(err error) error {
	var told *api.Error
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.As(err, &told):
		return err
	case errors.Is(err, proto.ErrFrame):
		return &api.Error{Kind: api.KindGuest, Message: err.Error()}
	}
	return lost{&api.Error{Kind: api.KindInternal, Message: "the connection to the session was lost: " + plain(err)}}
}
