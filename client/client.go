// Package client talks to bangerd, banger's daemon, over its unix socket: typed
// calls, the events of long operations, and the streams of commands, files and
// ssh. It starts the daemon when none runs. [Default] is where to begin. The command line, the web UI and the tests
// are built on it, and any Go program may be.
//
// Every error that a call gives is, or wraps, an [api.Error]: its kind is for
// the program, its message and hint are for a person.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"

	"github.com/banger-vm/banger/api"
)

// Options say where the daemon is and how to start it.
type Options struct {
	Runtime string   // directory of the socket; it is the user's own and nobody else's (0700)
	Log     string   // file that a started daemon writes its log to
	Daemon  []string // program and arguments of the daemon; empty: never start one
}

// SocketName is the name of the daemon's socket in the runtime directory.
const SocketName = "bangerd.sock"

// Client calls one daemon. It may be used by many goroutines at once.
type Client struct {
	options    Options
	http       *http.Client
	anyVersion bool
}

// New makes a client; it does not connect yet.
func New(o Options) *Client {
	c := &Client{options: o}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return c.dial(ctx)
		},
		DisableCompression: true,
	}}
	return c
}

// AnyVersion gives a client that also talks to a daemon of another version: to
// ask for its status and to shut it down, which every version understands.
func (c *Client) AnyVersion() *Client {
	other := *c
	other.anyVersion = true
	return &other
}

// NeverStart gives a client that takes a daemon that does not run for an
// error.
func (c *Client) NeverStart() *Client {
	o := c.options
	o.Daemon = nil
	other := New(o)
	other.anyVersion = c.anyVersion
	return other
}

// Socket is the path that the client connects to.
func (c *Client) Socket() string { return filepath.Join(c.options.Runtime, SocketName) }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// call does one request with a JSON answer. in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	resp, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	} else {
		err = json.NewDecoder(resp.Body).Decode(out)
	}
	if err != nil {
		return c.broken(ctx, err)
	}
	return nil
}

// send gives a successful answer, its body still to be read and closed.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	req, err := newRequest(ctx, method, path, in)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if err := c.check(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

func newRequest(ctx context.Context, method, path string, in any) (*http.Request, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bangerd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set(api.VersionHeader, api.Version)
	return req, nil
}

// check gives the error that an answer is: another version's, or a refusal.
func (c *Client) check(resp *http.Response) error {
	version := resp.Header.Get(api.VersionHeader)
	if version == "" {
		return &api.Error{Kind: api.KindHost,
			Message: fmt.Sprintf("%s does not answer like bangerd", c.Socket()),
			Hint:    "another program listens there: end it, then try again"}
	}
	if version != api.Version && !c.anyVersion {
		return &api.Error{Kind: api.KindWrongState,
			Message: fmt.Sprintf("the running bangerd is version %s, this banger is %s", version, api.Version),
			Hint:    "run `banger daemon restart`: running VMs are not touched"}
	}
	if resp.StatusCode < 300 || resp.StatusCode == http.StatusSwitchingProtocols {
		return nil
	}
	return refusal(resp)
}

// maxError is the most that is read of an answer that only tells of an error.
const maxError = 1 << 20

func refusal(resp *http.Response) error {
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	var e api.Error
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil || e.Message == "" {
		return &api.Error{Kind: api.KindInternal,
			Message: fmt.Sprintf("bangerd answered %s", resp.Status),
			Hint:    "`banger daemon logs` may tell why"}
	}
	return &e
}

// broken says what a connection's end means: the caller gave up, the daemon
// could not be reached (dial has said why), or it went away in the middle.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return canceled(ctx)
	}
	var told *api.Error
	if errors.As(err, &told) {
		return told
	}
	return &api.Error{Kind: api.KindInternal,
		Message: "the connection to bangerd broke: " + plain(err),
		Hint:    "`banger daemon logs` tells what happened to it; VMs run on without it, see `banger vm list`"}
}

func canceled(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &api.Error{Kind: api.KindCanceled, Message: "bangerd did not answer in time",
			Hint: "`banger daemon logs` may tell why"}
	}
	return &api.Error{Kind: api.KindCanceled, Message: "interrupted"}
}

// plain leaves out of an error what means nothing to a person.
func plain(err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it ended"
	}
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err.Error()
	}
	return err.Error()
}
