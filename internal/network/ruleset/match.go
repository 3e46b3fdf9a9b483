package ruleset

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Offsets in the headers that rules look at.
const (
	etherSource = 6
	etherType   = 12

	ipv4Source      = 12
	ipv4Destination = 16

	arpHardware     = 0 // type of hardware and of protocol, two bytes each
	arpLengths      = 4 // of a hardware and of a protocol address, one byte each
	arpSenderEther  = 8
	arpSenderIPv4   = 14
	arpTargetIPv4   = 24
	transportTarget = 2
)

// metaOutKind loads the kind of the outgoing link, such as "bridge". It is
// NFT_META_OIFKIND of linux/netfilter/nf_tables.h (kernel 5.6).
const metaOutKind expr.MetaKey = 27

// Registers. One holds 16 bytes, and can be used as four of 4 bytes too: a
// concatenated key of 16, 8 and 4 bytes begins at registers 1, 2 and 14.
const (
	regFirst  = 1
	regSecond = 2
	regThird  = 14
)

// ifName is a link's name as the kernel compares it, in all its 16 bytes.
func ifName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

func meta(key expr.MetaKey) expr.Any { return &expr.Meta{Key: key, Register: regFirst} }

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: regFirst, Data: data}
}

func differs(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: regFirst, Data: data}
}

func load(base expr.PayloadBase, offset, length uint32) expr.Any {
	return loadInto(regFirst, base, offset, length)
}

func loadInto(register uint32, base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}
}

// InFrom matches what comes in by the link.
func InFrom(link string) Part {
	return Part{fmt.Sprintf("iifname %q", link), []expr.Any{meta(expr.MetaKeyIIFNAME), equal(ifName(link))}}
}

// InFromOther matches what comes in by any link but this.
func InFromOther(link string) Part {
	return Part{fmt.Sprintf("iifname != %q", link), []expr.Any{meta(expr.MetaKeyIIFNAME), differs(ifName(link))}}
}

// InFromOtherThan matches what comes in by any link whose name does not begin
// with the prefix.
func InFromOtherThan(prefix string) Part {
	return Part{fmt.Sprintf("iifname != \"%s*\"", prefix), []expr.Any{meta(expr.MetaKeyIIFNAME), differs([]byte(prefix))}}
}

// OutTo matches what goes out by the link.
func OutTo(link string) Part {
	return Part{fmt.Sprintf("oifname %q", link), []expr.Any{meta(expr.MetaKeyOIFNAME), equal(ifName(link))}}
}

// OutToOther matches what goes out by any link but this.
func OutToOther(link string) Part {
	return Part{fmt.Sprintf("oifname != %q", link), []expr.Any{meta(expr.MetaKeyOIFNAME), differs(ifName(link))}}
}

// OutToKind matches what goes out by a link of the kind, such as "bridge".
func OutToKind(kind string) Part {
	return Part{fmt.Sprintf("meta oifkind %q", kind), []expr.Any{meta(metaOutKind), equal(ifName(kind))}}
}

// OutToNoneOf matches what goes out by a link that is not in the set.
func OutToNoneOf(set *Set) Part {
	return Part{fmt.Sprintf("oifname != @%s", set.Name), []expr.Any{
		meta(expr.MetaKeyOIFNAME),
		&expr.Lookup{SourceRegister: regFirst, SetName: set.Name, Invert: true},
	}}
}

// Replies matches packets of connections that were let through before.
func Replies() Part {
	return ctState("ct state established,related", expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// Invalid matches packets that connection tracking cannot place.
func Invalid() Part { return ctState("ct state invalid", expr.CtStateBitINVALID) }

func ctState(text string, bits uint32) Part {
	return Part{text, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: regFirst},
		&expr.Bitwise{
			SourceRegister: regFirst, DestRegister: regFirst, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
		},
		differs(make([]byte, 4)),
	}}
}

// ToLocal matches what is for an address of this host, on whichever link.
func ToLocal() Part { return toType("local", unix.RTN_LOCAL) }

// ToBroadcast matches what is for a broadcast address of any network of this
// host.
func ToBroadcast() Part { return toType("broadcast", unix.RTN_BROADCAST) }

func toType(name string, kind uint32) Part {
	return Part{"fib daddr type " + name, []expr.Any{
		&expr.Fib{Register: regFirst, ResultADDRTYPE: true, FlagDADDR: true},
		equal(binaryutil.NativeEndian.PutUint32(kind)),
	}}
}

// To matches what is for an address in the IPv4 range, in an inet table.
func To(p netip.Prefix) Part {
	return Part{"ip daddr " + prefixText(p), append(isIPv4(), inRange(ipv4Destination, p)...)}
}

// From matches what comes from an address in the IPv4 range, in an inet table.
func From(p netip.Prefix) Part {
	return Part{"ip saddr " + prefixText(p), append(isIPv4(), inRange(ipv4Source, p)...)}
}

func isIPv4() []expr.Any {
	return []expr.Any{meta(expr.MetaKeyNFPROTO), equal([]byte{unix.NFPROTO_IPV4})}
}

func inRange(offset uint32, p netip.Prefix) []expr.Any {
	addr := p.Masked().Addr().As4()
	exprs := []expr.Any{load(expr.PayloadBaseNetworkHeader, offset, 4)}
	if p.Bits() < 32 {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: regFirst, DestRegister: regFirst, Len: 4,
			Mask: net.CIDRMask(p.Bits(), 32), Xor: make([]byte, 4),
		})
	}
	return append(exprs, equal(addr[:]))
}

func prefixText(p netip.Prefix) string {
	if p.Bits() == 32 {
		return p.Addr().String()
	}
	return p.Masked().String()
}

// UDPTo matches UDP to the port.
func UDPTo(port uint16) Part { return portTo("udp", unix.IPPROTO_UDP, port) }

// TCPTo matches TCP to the port.
func TCPTo(port uint16) Part { return portTo("tcp", unix.IPPROTO_TCP, port) }

func portTo(name string, protocol byte, port uint16) Part {
	return Part{fmt.Sprintf("%s dport %d", name, port), []expr.Any{
		meta(expr.MetaKeyL4PROTO), equal([]byte{protocol}),
		load(expr.PayloadBaseTransportHeader, transportTarget, 2),
		equal(binary.BigEndian.AppendUint16(nil, port)),
	}}
}

// Ping matches an ICMP echo request.
func Ping() Part {
	const echoRequest = 8
	return Part{"icmp type echo-request", []expr.Any{
		meta(expr.MetaKeyL4PROTO), equal([]byte{unix.IPPROTO_ICMP}),
		load(expr.PayloadBaseTransportHeader, 0, 1), equal([]byte{echoRequest}),
	}}
}

// FrameOf matches, in a bridge table, an IPv4 frame whose link, source MAC and
// source address together are in the set.
func FrameOf(set *Set) Part {
	exprs := []expr.Any{
		load(expr.PayloadBaseLLHeader, etherType, 2), equal(binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)),
	}
	exprs = append(exprs, who(set, frameSource, ipv4Source)...)
	return Part{fmt.Sprintf("iifname . ether saddr . ip saddr @%s", set.Name), exprs}
}

// ARPOf matches, in a bridge table, ARP for Ethernet and IPv4 that asks about
// or answers the target, and whose sender, in the frame and in the ARP itself,
// is in the set together with the link.
func ARPOf(set *Set, target netip.Addr) Part {
	addr := target.As4()
	exprs := []expr.Any{
		load(expr.PayloadBaseLLHeader, etherType, 2), equal(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP)),
		load(expr.PayloadBaseNetworkHeader, arpHardware, 4), equal([]byte{0, unix.ARPHRD_ETHER, 8, 0}),
		load(expr.PayloadBaseNetworkHeader, arpLengths, 2), equal([]byte{6, 4}),
		load(expr.PayloadBaseNetworkHeader, arpTargetIPv4, 4), equal(addr[:]),
	}
	exprs = append(exprs, who(set, frameSource, arpSenderIPv4)...)
	exprs = append(exprs, who(set, arpSender, arpSenderIPv4)...)
	return Part{fmt.Sprintf("arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp daddr ip %v"+
		" iifname . ether saddr . arp saddr ip @%s iifname . arp saddr ether . arp saddr ip @%s", target, set.Name, set.Name), exprs}
}

// Sources is a set of IPv4 addresses of which rules count something.
func Sources(name string) *Set {
	return &Set{Name: name, Types: []nftables.SetDatatype{nftables.TypeIPAddr}, Size: 1 << 16}
}

// MoreConnections matches, in an inet table, a packet of a new connection of an
// IPv4 address that has more than most connections in the kernel's table. They
// are counted in the set, from when it is made. It needs nft_connlimit.
func MoreConnections(set *Set, most uint32) Part {
	return Part{fmt.Sprintf("add @%s { ip saddr ct count over %d }", set.Name, most), append(isIPv4(),
		load(expr.PayloadBaseNetworkHeader, ipv4Source, 4),
		&expr.Dynset{
			SrcRegKey: regFirst, SetName: set.Name, Operation: unix.NFT_DYNSET_OP_ADD,
			Exprs: []expr.Any{&expr.Connlimit{Count: most, Flags: expr.NFT_CONNLIMIT_F_INV}},
		},
	)}
}

type place struct {
	base   expr.PayloadBase
	offset uint32
}

var (
	frameSource = place{expr.PayloadBaseLLHeader, etherSource}
	arpSender   = place{expr.PayloadBaseNetworkHeader, arpSenderEther}
)

func who(set *Set, mac place, addr uint32) []expr.Any {
	return []expr.Any{
		meta(expr.MetaKeyIIFNAME),
		loadInto(regSecond, mac.base, mac.offset, 6),
		loadInto(regThird, expr.PayloadBaseNetworkHeader, addr, 4),
		&expr.Lookup{SourceRegister: regFirst, SetName: set.Name},
	}
}

// Counted counts the packets that the matches before it hold for.
func Counted() Part { return Part{"counter packets 0 bytes 0", []expr.Any{&expr.Counter{}}} }

// Accept lets through what the matches before it hold for, in this chain.
func Accept() Part { return verdict("accept", expr.VerdictAccept) }

// Drop drops it for good.
func Drop() Part { return verdict("drop", expr.VerdictDrop) }

func verdict(text string, kind expr.VerdictKind) Part {
	return Part{text, []expr.Any{&expr.Verdict{Kind: kind}}}
}

// Masquerade gives a connection the address of the link it leaves by.
func Masquerade() Part { return Part{"masquerade", []expr.Any{&expr.Masq{}}} }

// Links is a set of link names.
func Links(name string, links []string) *Set {
	s := &Set{Name: name, Types: []nftables.SetDatatype{nftables.TypeIFName}}
	for _, l := range links {
		s.Elements = append(s.Elements, Element{Text: fmt.Sprintf("%q", l), Key: ifName(l)})
	}
	return s
}

// Guests is a set of link, MAC and address; see [Guest].
func Guests(name string, guests []Element) *Set {
	return &Set{
		Name:     name,
		Types:    []nftables.SetDatatype{nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr},
		Elements: guests,
	}
}

// Guest is an element of a [Guests] set: who may speak on a link.
func Guest(link string, mac net.HardwareAddr, addr netip.Addr) Element {
	ip := addr.As4()
	key := append(ifName(link), mac...)
	key = append(key, 0, 0) // a part takes whole registers of four bytes
	key = append(key, ip[:]...)
	return Element{Text: fmt.Sprintf("%q . %v . %v", link, mac, addr), Key: key}
}
