package fcqemu

import (
	"context"
	"net"

	"github.com/banger-vm/banger/internal/firecracker/fcserver"
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
	fcserver.Join(guest, host)
}
