package client

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"

	"github.com/banger-vm/banger/api"
)

// Stream is a connection that was upgraded: plain bytes in both directions,
// each of which can end on its own.
type Stream struct {
	conn   *net.UnixConn
	reader *bufio.Reader // may hold bytes that came with the answer
}

// Read reads from the other end.
func (s *Stream) Read(p []byte) (int, error) { return s.reader.Read(p) }

// Write writes to the other end.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// CloseWrite ends this direction; the other goes on.
func (s *Stream) CloseWrite() error { return s.conn.CloseWrite() }

// Close ends both directions.
func (s *Stream) Close() error { return s.conn.Close() }

// SSH connects to the VM's SSH server through the daemon, not through the
// network.
func (c *Client) SSH(ctx context.Context, vm string) (*Stream, error) {
	return c.upgrade(ctx, vmPath(vm, "/ssh"), api.UpgradeSSH, nil)
}

// upgrade posts in and gives the connection as the daemon leaves it. Ctx
// counts until then.
func (c *Client) upgrade(ctx context.Context, path, protocol string, in any) (*Stream, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	detach := context.AfterFunc(ctx, func() { conn.Close() })
	stream, err := c.handshake(ctx, conn, path, protocol, in)
	if err != nil {
		detach()
		conn.Close()
		return nil, err
	}
	if !detach() {
		return nil, canceled(ctx)
	}
	return stream, nil
}

func (c *Client) handshake(ctx context.Context, conn net.Conn, path, protocol string, in any) (*Stream, error) {
	req, err := newRequest(ctx, http.MethodPost, path, in)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		return nil, c.broken(ctx, err)
	}
	reader := bufio.NewReaderSize(conn, 64<<10)
	resp, err := http.ReadResponse(reader, req) //nolint:bodyclose // the connection is the body, and lives on
	if err != nil {
		return nil, c.broken(ctx, err)
	}
	if err := c.check(resp); err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, c.broken(ctx, io.ErrUnexpectedEOF)
	}
	return &Stream{conn: conn.(*net.UnixConn), reader: reader}, nil
}
