package fcqemu

import (
	"context"
	"io"
	"net"
	"sync"

	"github.com/banger-vm/banger/internal/guest/serialmux"
)

// dialHost opens the stream that a guest asked for.
type dialHost func(ctx context.Context, port uint32) (net.Conn, error)

// serveGuest connects what the guest dials until the link ends.
func serveGuest(ctx context.Context, mux *serialmux.Mux, dial dialHost) {
	for {
		guest, port, err := mux.Accept()
		if err != nil {
			return
		}
		go connect(ctx, guest, port, dial)
	}
}

// connect joins guest to the host's end of port. A stream that is closed
// before it was read was refused, and the guest sees it so.
func connect(ctx context.Context, guest net.Conn, port uint32, dial dialHost) {
	defer guest.Close()
	host, err := dial(ctx, port)
	if err != nil {
		return
	}
	defer host.Close()
	join(guest, host)
}

// join copies both ways until both have ended, and passes each end on.
func join(a, b net.Conn) {
	var both sync.WaitGroup
	both.Add(2)
	go func() { defer both.Done(); pass(a, b) }()
	go func() { defer both.Done(); pass(b, a) }()
	both.Wait()
}

// pass copies until from has ended. When to takes no more, from is closed, so
// that its peer does not write for nobody.
func pass(to, from net.Conn) {
	if _, err := io.Copy(to, from); err != nil {
		_ = from.Close()
		_ = to.Close()
		return
	}
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
		return
	}
	_ = to.Close()
}
