package agent

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func knownReason(r proto.Reason) bool {
	return r == proto.ReasonPoweroff || r == proto.ReasonReboot || r == proto.ReasonHalt
}

// serveShutdown answers, then asks the image's init to go down: nothing can be
// answered once that has begun.
func (a *Agent) serveShutdown(conn net.Conn, body json.RawMessage) {
	var s proto.Shutdown
	if err := decode(body, &s); err != nil {
		refuse(conn, err)
		return
	}
	if !knownReason(s.Reason) {
		refuse(conn, badRequest("a guest cannot go down by %q", s.Reason))
		return
	}
	if a.init != proto.InitSystemd {
		// systemd says goodbye itself, when it has begun; the others never do.
		a.goodbye(s.Reason)
	}
	_ = accept(conn, nil) // it is to go down also when the host is gone
	conn.Close()
	if err := a.shutDown(s.Reason); err != nil {
		fmt.Fprintf(os.Stderr, "banger-vsock-agent: %v\n", err)
	}
}

// goodbye tells all watchers why the guest goes down, and gives them a moment
// to hear it.
func (a *Agent) goodbye(r proto.Reason) {
	a.events.add(proto.Event{Kind: proto.EventGoodbye, Reason: r})
	a.events.told(goodbyeTimeout)
}
