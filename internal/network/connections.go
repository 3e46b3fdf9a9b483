package network

import (
	"fmt"
	"math"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetConnections takes the guest's connections out of the kernel's table:
// the next guest at its address neither pays for them nor gets their answers.
func (h *linux) forgetConnections(guest netip.Addr) {
	err := flushConnections(guest)
	if err != nil {
		_, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, connectionsOf(guest))
	}
	if err != nil {
		h.log.Warn("cannot forget the connections of a guest that is gone", "address", guest, "error", err)
	}
}

// From include/uapi/linux/netfilter/nfnetlink_conntrack.h and, for the flags,
// net/netfilter/nf_internals.h.
const (
	ctaFilter          = 25
	ctaFilterOrigFlags = 1
	filterBySource     = 1 << 0
	filterByTarget     = 1 << 1
)

// flushConnections has the kernel forget what an address has begun and what was
// begun to it. Kernels before 6.8 refuse: they can't choose by addresses, and
// who asks must read the whole table, a fiftieth of a second even when it is
// empty.
func flushConnections(guest netip.Addr) error {
	for _, by := range []struct{ flag, attribute int }{{filterBySource, nl.CTA_IP_V4_SRC}, {filterByTarget, nl.CTA_IP_V4_DST}} {
		tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
		tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil).AddRtAttr(by.attribute, guest.AsSlice())
		filter := nl.NewRtAttr(unix.NLA_F_NESTED|ctaFilter, nil)
		filter.AddRtAttr(ctaFilterOrigFlags, nl.Uint32Attr(uint32(by.flag)))
		r := nl.NewNetlinkRequest(int(netlink.ConntrackTable)<<8|nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK)
		r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET, Version: nl.NFNETLINK_V0})
		r.AddData(tuple)
		r.AddData(filter)
		if _, err := r.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
			return fmt.Errorf("cannot flush the connections of %v: %w", guest, err)
		}
	}
	return nil
}

// connectionsOf matches the connections that an address has begun, or that were
// begun to it.
type connectionsOf netip.Addr

func (c connectionsOf) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	addr := netip.Addr(c).AsSlice()
	return flow.Forward.SrcIP.Equal(addr) || flow.Forward.DstIP.Equal(addr)
}

// trimConnections is for rules that are new and know of no connection yet, and
// for guests whose end nobody saw.
func (h *linux) trimConnections(c Config, attached []Lease, most uint32) {
	x := excess{guests: c.Addr.Masked(), left: map[netip.Addr]int{c.Addr.Addr(): math.MaxInt}}
	for _, l := range attached {
		switch {
		case !isOpen(l.Tap):
		case h.counts:
			x.left[l.Addr.Addr()] = int(most)
		default:
			x.left[l.Addr.Addr()] = math.MaxInt
		}
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, x); err != nil {
		h.log.Warn("cannot take connections of guests out of the host's table", "error", err)
	}
}

// isOpen says whether a VMM has the tap open, or may have it open.
func isOpen(tap string) bool {
	l, err := netlink.LinkByName(tap)
	if err != nil {
		return !isNoLink(err)
	}
	return l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0
}

// excess matches connections that guests have begun, after so many of each, and
// all of guests that do not run.
type excess struct {
	guests netip.Prefix
	left   map[netip.Addr]int // how many more may stay of those that run
}

func (e excess) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return e.isGone(flow.Forward.DstIP) || e.isGone(flow.Forward.SrcIP) || !e.mayStay(flow.Forward.SrcIP)
}

// isGone says whether ip is one that a guest could have, and none has.
func (e excess) isGone(ip net.IP) bool {
	addr := addrOf(ip)
	_, runs := e.left[addr]
	return e.guests.Contains(addr) && !runs
}

func (e excess) mayStay(source net.IP) bool {
	addr := addrOf(source)
	left, runs := e.left[addr]
	if !runs {
		return true // no guest's
	}
	e.left[addr]--
	return left > 0
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
