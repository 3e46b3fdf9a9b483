package network

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
)

// DefaultRange is the range that is tried first where none is configured.
var DefaultRange = netip.MustParsePrefix("172.16.0.0/24")

// privateRanges is where others are looked for: RFC 1918, the part of it that
// home routers and offices use least.
var privateRanges = netip.MustParsePrefix("172.16.0.0/12")

// Free gives an address and range for the bridge where the user has set none:
// the bridge's present one if it is ours, else the first /24 that nothing on
// the host uses, beginning with [DefaultRange].
func Free(bridge string) (netip.Prefix, error) {
	if present, ok := presentRange(bridge); ok {
		return present, nil
	}
	used, err := usedRanges(bridge)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("cannot find a free range for VMs: %w", err)
	}
	for p := DefaultRange; privateRanges.Contains(p.Addr()); p = following(p) {
		if overlapping(used, p) == nil {
			return netip.PrefixFrom(p.Addr().Next(), p.Bits()), nil
		}
	}
	return netip.Prefix{}, &api.Error{
		Kind:    api.KindHost,
		Message: fmt.Sprintf("every range in %v is in use on this host", privateRanges),
		Hint:    "set cidr and bridge_ip in config.toml to a private range that you can spare",
	}
}

func following(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(address(number(p.Addr())+1<<(32-p.Bits())), p.Bits())
}

func presentRange(bridge string) (netip.Prefix, bool) {
	l, err := netlink.LinkByName(bridge)
	if err != nil || l.Attrs().Alias != alias {
		return netip.Prefix{}, false
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 {
		return netip.Prefix{}, false
	}
	return prefixOf(addrs[0].IPNet)
}

// usedRange is a range that the host uses, and for what.
type usedRange struct {
	prefix netip.Prefix
	by     string
}

// usedBy names what uses a part of the range, other than the bridge; "" if
// nothing does.
func usedBy(p netip.Prefix, bridge string) (string, error) {
	used, err := usedRanges(bridge)
	if err != nil {
		return "", err
	}
	if u := overlapping(used, p); u != nil {
		return u.by, nil
	}
	return "", nil
}

func overlapping(used []usedRange, p netip.Prefix) *usedRange {
	for i := range used {
		if used[i].prefix.Overlaps(p) {
			return &used[i]
		}
	}
	return nil
}

// usedRanges are those of all addresses and routes of the host. The default
// route is no use of an address.
func usedRanges(bridge string) ([]usedRange, error) {
	names, err := linkNames()
	if err != nil {
		return nil, err
	}
	addrs, err := consistent(allAddresses)
	if err != nil {
		return nil, err
	}
	routes, err := consistent(allRoutes)
	if err != nil {
		return nil, err
	}
	var used []usedRange
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && names[a.LinkIndex] != bridge {
			used = append(used, usedRange{p, fmt.Sprintf("the address %v of %s", p, names[a.LinkIndex])})
		}
	}
	for _, r := range routes {
		if p, ok := prefixOf(r.Dst); ok && p.Bits() > 0 && names[r.LinkIndex] != bridge {
			used = append(used, usedRange{p, fmt.Sprintf("the route to %v by %s", p, names[r.LinkIndex])})
		}
	}
	return used, nil
}

func linkNames() (map[int]string, error) {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	return names, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok && addr.Unmap().Is4()
}
