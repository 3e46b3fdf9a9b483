//go:build hosttest

package network

import (
	"context"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestAGuestCannotFillTheConnectionTable begins connections without end. Others
// notice nothing, and with the guest its connections go.
func TestAGuestCannotFillTheConnectionTable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0))
	n := l.network()
	guests := l.guests(n, 2)
	bad, good := guests[0], guests[1]
	bad.beginConnections(0)
	if got := l.connections(bad); got > mostConnections || got < mostConnections-100 {
		t.Errorf("it has %d connections, not %d", got, mostConnections)
	}
	if _, err := bad.dial(bad.ns, webServer, 80, shortly); err == nil {
		t.Error("it has as many as it may, and begins one more")
	}
	good.works()

	put := l.take(n, tooMany)
	bad.beginConnections(2 * mostConnections)
	if got := l.connections(bad); got <= mostConnections+100 {
		t.Errorf("without the rule it has %d connections, so the test shows nothing", got)
	}
	put()

	bad.stop()
	must(t, n.Set(context.Background(), []Lease{good.Lease}))
	if got := l.connections(bad); got != 0 {
		t.Errorf("it is gone, and %d connections of it are left", got)
	}
	must(t, n.Set(context.Background(), []Lease{bad.Lease, good.Lease}))
	bad = l.start(bad.Lease)
	bad.works()

	// It ends while no daemon looks.
	must(t, n.Close(context.Background(), []Lease{bad.Lease, good.Lease}))
	bad.stop()
	if got := l.connections(bad); got == 0 {
		t.Error("nothing is left of it, so the test shows nothing")
	}
	n = l.network()
	must(t, n.Set(context.Background(), []Lease{good.Lease}))
	must(t, n.Set(context.Background(), []Lease{bad.Lease, good.Lease}))
	if got := l.connections(bad); got != 0 {
		t.Errorf("its address is another's, and %d connections of it are left", got)
	}
	good.works()
}

// beginConnections begins more than a guest may have, each with one packet;
// those from another first one are others.
func (g *guest) beginConnections(first int) {
	const ports = 1 << 15
	for i := range mostConnections + 1000 {
		i += first
		to := netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i/ports)})
		packet := udpPacket(g.Addr.Addr(), to, uint16(1024+i%ports), nil)
		g.send(etherFrame(macOf(g.Gateway), macOf(g.Addr.Addr()), typeIPv4, packet))
	}
}

// connections counts those in the host's table that the guest has begun.
func (l *lab) connections(g *guest) (count int) {
	l.t.Helper()
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	must(l.t, err)
	for _, f := range flows {
		if f.Forward.SrcIP.Equal(g.Addr.Addr().AsSlice()) {
			count++
		}
	}
	return count
}
