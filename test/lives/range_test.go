//go:build hosttest

package lives

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/internal/network"
)

// Where the user has set no range and the host uses the usual one, the guests have
// another, under every daemon that follows, too.
func TestTheUsualRangeIsTaken(t *testing.T) {
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other0"}}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: network.DefaultRange.Addr().Next().AsSlice(), Mask: net.CIDRMask(network.DefaultRange.Bits(), 32)}}
	s := newStation(t)
	s.more = nil
	s.check(netlink.LinkAdd(other))
	t.Cleanup(func() { s.check(netlink.LinkDel(other)) })
	s.check(netlink.AddrAdd(other, addr))
	s.start()
	one := s.run("one")
	s.exec("one", "true")
	s.kill()
	s.start()
	two := s.run("two")
	first, err := netip.ParseAddr(one.Address)
	s.check(err)
	if network.DefaultRange.Contains(first) {
		t.Errorf("a guest has %v of the range that is taken", first)
	}
	ranges := netip.PrefixFrom(first, network.DefaultRange.Bits()).Masked()
	if second, err := netip.ParseAddr(two.Address); err != nil || !ranges.Contains(second) {
		t.Errorf("the guests of two daemons have %s and %s", one.Address, two.Address)
	}
	s.agrees()
	s.empty()
}
