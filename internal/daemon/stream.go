package daemon

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/duplex"
)

// upgrade turns the connection of a request into a stream.
func upgrade(w http.ResponseWriter, r *http.Request, protocol string) (net.Conn, error) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		return nil, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("this call needs an Upgrade to %s", protocol)}
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("cannot take over the connection: %w", err)
	}
	head := fmt.Sprintf("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		protocol, api.VersionHeader, api.Version)
	if _, err := io.WriteString(conn, head); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot answer: %w", err)
	}
	return &upgraded{conn.(*net.UnixConn), buffered.Reader}, nil
}

// stream runs an upgraded connection to its end, which is also the daemon's.
func (d *Daemon) stream(client net.Conn, run func()) {
	d.streams.Add(1)
	defer d.streams.Done()
	defer context.AfterFunc(d.life, func() { client.Close() })()
	run()
}

// upgraded is a connection some bytes of which may have been read already.
type upgraded struct {
	*net.UnixConn
	early *bufio.Reader
}

func (u *upgraded) Read(p []byte) (int, error) {
	if u.early.Buffered() > 0 {
		return u.early.Read(p)
	}
	return u.UnixConn.Read(p)
}

// splice joins two connections and closes them.
func splice(a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	duplex.Join(a, b)
}
