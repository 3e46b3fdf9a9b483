package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/banger-vm/banger/internal/duplex"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// dialTimeout bounds a connection attempt on behalf of the host.
const dialTimeout = 30 * time.Second

func serveDial(conn net.Conn, body []byte) {
	var d proto.Dial
	if err := decode(body, &d); err != nil {
		refuse(conn, err)
		return
	}
	if d.Network != "tcp" && d.Network != "unix" {
		refuse(conn, badRequest("the agent connects to tcp and unix addresses, not to %q", d.Network))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
	defer cancel()
	target, err := new(net.Dialer).DialContext(ctx, d.Network, d.Addr)
	if err != nil {
		refuse(conn, err)
		return
	}
	defer target.Close()
	if accept(conn, nil) == nil {
		duplex.Join(hostStream{conn, proto.NewReader(conn)}, target)
	}
}

// hostStream is a connection whose direction from the host is in frames.
type hostStream struct {
	net.Conn
	frames *proto.Reader
}

// WriteTo copies what the host sends until its StdinEOF, the way io.Copy wants
// it.
func (s hostStream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		f, err := s.frames.Next()
		switch {
		case err != nil:
			return total, fmt.Errorf("cannot read from the host: %w", err)
		case f.Type == proto.TypeStdinEOF:
			return total, nil
		case f.Type != proto.TypeStdin:
			return total, proto.ErrFrame
		}
		n, err := w.Write(f.Payload)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// CloseWrite ends the direction to the host, where the link can do that.
func (s hostStream) CloseWrite() error {
	if half, ok := s.Conn.(duplex.Conn); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
