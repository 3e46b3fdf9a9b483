//go:build hosttest

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
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
	l.finds("connection limits", api.LevelOK, "its share")
	bad, good := guests[0], guests[1]
	bad.beginConnections(0, enoughConnections+1000)
	if got := l.connections(bad); got > enoughConnections || got < enoughConnections-100 {
		t.Errorf("it has %d connections, not %d", got, enoughConnections)
	}
	if _, err := bad.dial(bad.ns, webServer, 80, shortly); err == nil {
		t.Error("it has as many as it may, and begins one more")
	}
	l.finds("connection limits", api.LevelWarning, "more connections than they may have: 1")
	good.works()

	put := l.take(n, tooMany)
	bad.beginConnections(2*enoughConnections, enoughConnections+1000)
	if got := l.connections(bad); got <= enoughConnections+100 {
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

// TestGuestsTogetherLeaveTheHostHalfOfItsConnectionTable has more and more
// guests begin connections without end, on a host with a small table.
func TestGuestsTogetherLeaveTheHostHalfOfItsConnectionTable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	must(t, os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_udp_timeout", []byte("600"), 0))
	const table = 1 << 12
	l.tableHolds(table)
	n := l.network()
	leases := l.leases(9)
	var guests []*guest
	flood := func(first int) (together int) {
		for _, g := range guests {
			g.beginConnections(first, table/2)
			together += l.connections(g)
		}
		return together
	}
	for _, lease := range leases {
		must(t, n.Set(context.Background(), leases[:len(guests)+1]))
		guests = append(guests, l.start(lease))
		if got := flood(len(guests) * table); got > table/2 || got < table/8 {
			t.Errorf("%d guests have %d of the host's %d connections", len(guests), got, table)
		}
	}
	l.take(n, tooMany)
	if got := flood(0); got <= table {
		t.Errorf("without the rule they have %d connections, so the test shows nothing", got)
	}
}

// TestAGuestsConnectionsAreForgottenAndNoOthers does it in both ways: an older
// kernel refuses the first.
func TestAGuestsConnectionsAreForgottenAndNoOthers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	guests := l.guests(n, 2)
	gone, stays := guests[0], guests[1]
	const some = 50
	stays.beginConnections(0, some)
	for name, forget := range map[string]func() error{
		"the kernel chooses": func() error { return flushConnections(gone.Addr.Addr()) },
		"the table is read": func() error {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, connectionsOf(gone.Addr.Addr()))
			return err
		},
	} {
		gone.beginConnections(0, some)
		if got := l.connections(gone); got < some {
			t.Fatalf("%s: the guest has %d connections, so the test shows nothing", name, got)
		}
		if err := forget(); errors.Is(err, unix.EINVAL) {
			t.Logf("%s: this kernel can't: %v", name, err)
			continue
		} else if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := l.connections(gone); got != 0 {
			t.Errorf("%s: %d connections are left", name, got)
		}
		if got := l.connections(stays); got < some {
			t.Errorf("%s: another guest has only %d connections left", name, got)
		}
	}
}

// tableHolds makes the host's table of connections as small as this, as far as
// anybody can read: there is one size for all network namespaces.
func (l *lab) tableHolds(connections int) {
	l.t.Helper()
	told := filepath.Join(l.t.TempDir(), "nf_conntrack_max")
	must(l.t, os.WriteFile(told, fmt.Appendln(nil, connections), 0o600))
	must(l.t, unix.Mount(told, connectionsFile, "", unix.MS_BIND, ""))
	l.t.Cleanup(func() { unix.Unmount(connectionsFile, unix.MNT_DETACH) })
}

// beginConnections begins so many, each with one packet; those from another
// first one are others.
func (g *guest) beginConnections(first, count int) {
	const ports = 1 << 15
	for i := range count {
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
