//go:build hosttest

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Ether types.
const (
	typeIPv4 = 0x0800
	typeARP  = 0x0806
	typeVLAN = 0x8100
	typeQinQ = 0x88a8
	typeIPv6 = 0x86dd
	typePPP  = 0x8863
)

var broadcastMAC = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func etherFrame(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	f := append(append([]byte{}, to...), from...)
	f = binary.BigEndian.AppendUint16(f, kind)
	return append(f, payload...)
}

// ipv4Packet is UDP to the discard port.
func ipv4Packet(from, to netip.Addr) []byte { return udpPacket(from, to, 9, nil) }

// udpPacket has an IPv4 header that holds, and a UDP header without a checksum.
func udpPacket(from, to netip.Addr, port uint16, payload []byte) []byte {
	udp := binary.BigEndian.AppendUint16([]byte{0x10, 0}, port)
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(udp)))
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, udp...)
}

func checksum(h []byte) uint16 {
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

const (
	arpRequest = 1
	arpReply   = 2
)

func arpPacket(op uint16, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	p := []byte{0, 1, 8, 0, 6, 4}
	p = binary.BigEndian.AppendUint16(p, op)
	p = append(append(p, senderMAC...), sender.AsSlice()...)
	return append(append(p, targetMAC...), target.AsSlice()...)
}

// send puts a frame on the wire as the guest would, whatever its own kernel
// thinks of it.
func (g *guest) send(frame []byte) {
	g.t.Helper()
	const vnetHeader = 10
	_, err := g.vmm.Write(append(make([]byte, vnetHeader), frame...))
	must(g.t, err)
}

// wiretap sees the frames that get through to the host's side of the bridge.
type wiretap struct {
	t  *testing.T
	fd int
}

func (l *lab) wiretap() *wiretap {
	l.t.Helper()
	all := int(binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL}))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	must(l.t, err)
	l.t.Cleanup(func() { unix.Close(fd) })
	index := linkNamed(l.t, l.cfg.Bridge).Attrs().Index
	must(l.t, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: index}))
	must(l.t, unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}))
	return &wiretap{l.t, fd}
}

// sees says whether the frame arrives before the marker that is sent after it.
func (w *wiretap) sees(frame, marker []byte) bool {
	w.t.Helper()
	seen := false
	buf := make([]byte, 1<<16)
	for {
		n, err := unix.Read(w.fd, buf)
		if err != nil {
			w.t.Fatalf("the marker never came: %v", err)
		}
		if bytes.Equal(buf[:n], marker) {
			return seen
		}
		seen = seen || n >= 12 && bytes.Equal(buf[:12], frame[:12]) && bytes.HasSuffix(buf[:n], frame[18:])
	}
}

func TestGuestsCannotPretend(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.bridgeOnly()
	n := l.network()
	guests := l.guests(n, 2)
	g, other := guests[0], guests[1]
	g.resolves() // the bridge takes a moment to open a port whose tap was opened
	w := l.wiretap()

	own, others, gateway := macOf(g.Addr.Addr()), macOf(other.Addr.Addr()), macOf(g.Gateway)
	nobody := net.HardwareAddr{2, 9, 9, 9, 9, 9}
	none := net.HardwareAddr{0, 0, 0, 0, 0, 0}
	self, neighbour, zero := g.Addr.Addr(), other.Addr.Addr(), netip.IPv4Unspecified()
	frames := []struct {
		what  string
		frame []byte
	}{
		{"another's MAC", etherFrame(gateway, others, typeIPv4, ipv4Packet(self, webServer))},
		{"nobody's MAC", etherFrame(gateway, nobody, typeIPv4, ipv4Packet(self, webServer))},
		{"the gateway's MAC", etherFrame(broadcastMAC, gateway, typeIPv4, ipv4Packet(self, webServer))},
		{"another's address", etherFrame(gateway, own, typeIPv4, ipv4Packet(neighbour, webServer))},
		{"the gateway's address", etherFrame(gateway, own, typeIPv4, ipv4Packet(g.Gateway, webServer))},
		{"an address of the internet", etherFrame(gateway, own, typeIPv4, ipv4Packet(webServer, self))},
		{"another's MAC and address", etherFrame(gateway, others, typeIPv4, ipv4Packet(neighbour, webServer))},
		{"no address, as a DHCP client", etherFrame(broadcastMAC, own, typeIPv4, ipv4Packet(zero, netip.AddrFrom4([4]byte{255, 255, 255, 255})))},
		{"ARP: the gateway's address is mine", etherFrame(broadcastMAC, own, typeARP, arpPacket(arpReply, own, g.Gateway, others, neighbour))},
		{"ARP: another's address is mine, to the gateway", etherFrame(gateway, own, typeARP, arpPacket(arpReply, own, neighbour, gateway, g.Gateway))},
		{"ARP: my address is at another's MAC", etherFrame(gateway, own, typeARP, arpPacket(arpReply, others, self, gateway, g.Gateway))},
		{"ARP: who has another's address", etherFrame(broadcastMAC, own, typeARP, arpPacket(arpRequest, own, self, none, neighbour))},
		{"ARP: from another's MAC", etherFrame(gateway, others, typeARP, arpPacket(arpRequest, own, self, none, g.Gateway))},
		{"ARP: a probe", etherFrame(broadcastMAC, own, typeARP, arpPacket(arpRequest, own, zero, none, g.Gateway))},
		{"RARP", etherFrame(broadcastMAC, own, 0x8035, arpPacket(3, own, self, own, g.Gateway))},
		{"IPv6", etherFrame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, own, typeIPv6, routerAdvertisement())},
		{"another's address in a VLAN", etherFrame(gateway, own, typeVLAN, append([]byte{0, 5, 8, 0}, ipv4Packet(neighbour, webServer)...))},
		{"two VLANs", etherFrame(gateway, own, typeQinQ, append([]byte{0, 5, 0x81, 0, 0, 6, 8, 0}, ipv4Packet(self, webServer)...))},
		{"spanning tree", etherFrame(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, own, 38, append([]byte{0x42, 0x42, 3}, make([]byte, 43)...))},
		{"PPPoE", etherFrame(broadcastMAC, own, typePPP, make([]byte, 46))},
	}
	marker := etherFrame(gateway, own, typeARP, arpPacket(arpRequest, own, self, none, g.Gateway))
	for _, f := range frames {
		g.send(f.frame)
		g.send(marker)
		if w.sees(f.frame, marker) {
			t.Errorf("a frame with %s gets through", f.what)
		}
	}
	defer l.take(n, "nothing else, IPv6 included")()
	for _, f := range frames {
		g.send(f.frame)
		g.send(marker)
		if !w.sees(f.frame, marker) {
			t.Errorf("a frame with %s does not get through without the rule either, so the test shows nothing", f.what)
		}
	}
}

// routerAdvertisement is an IPv6 packet that would make its receivers use the
// sender as router; its checksum does not matter here.
func routerAdvertisement() []byte {
	p := make([]byte, 40+16)
	p[0], p[5], p[6], p[7] = 0x60, 16, unix.IPPROTO_ICMPV6, 255
	copy(p[8:], net.ParseIP("fe80::66"))
	copy(p[24:], net.ParseIP("ff02::1"))
	p[40], p[46] = 134, 0xff
	return p
}

func TestGuestsAreIsolatedOnTheBridge(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.bridgeOnly()
	guests := l.guests(l.network(), 2)
	a, b := guests[0], guests[1]
	a.in(a.ns, func() { a.knows(b.Lease) })
	b.in(b.ns, func() { b.knows(a.Lease); b.serveTCP(":80") })

	if _, err := l.dial(a.ns, b.Addr.Addr(), 80, shortly); err == nil {
		t.Error("a guest reaches another across the bridge")
	}
	for _, g := range guests {
		must(t, netlink.LinkSetIsolated(linkNamed(t, g.Tap), false))
	}
	if _, err := l.dial(a.ns, b.Addr.Addr(), 80, soon); err != nil {
		t.Errorf("ports that are not isolated cannot reach each other either, so the test shows nothing: %v", err)
	}
}

// bridgeOnly keeps what crosses the bridge from the rules for packets, which it
// would meet where br_netfilter is switched on: the test is to show what the
// bridge and its own rules do.
func (l *lab) bridgeOnly() {
	l.t.Helper()
	for _, name := range []string{"iptables", "ip6tables", "arptables"} {
		must(l.t, os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0))
	}
}

// knows puts another's MAC where ARP would.
func (g *guest) knows(other Lease) {
	must(g.t, netlink.NeighSet(neighbour(linkNamed(g.t, "eth0").Attrs().Index, other)))
}

func TestGuestsCannotFloodTheBridgeTable(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	g := l.guests(n, 1)[0]
	defer l.take(n, "nothing else, IPv6 included")() // so that it depends on the port alone
	g.resolves()                                     // the bridge takes a moment to open a port whose tap was opened
	before := l.learned(g)
	g.flood(0)
	if after := l.learned(g); after != before {
		t.Errorf("the bridge knew %d addresses behind the tap, now %d", before, after)
	}
	must(t, netlink.LinkSetLearning(linkNamed(t, g.Tap), true))
	g.flood(1)
	if l.learned(g) == before {
		t.Error("a port that learns learns nothing either, so the test shows nothing")
	}
}

func (g *guest) flood(series byte) {
	for i := range 200 {
		g.send(etherFrame(macOf(g.Gateway), net.HardwareAddr{2, series, 0, 0, 0, byte(i)}, typeIPv4, ipv4Packet(g.Addr.Addr(), webServer)))
	}
	g.resolves() // all before it has been seen
}

func (l *lab) learned(g *guest) int {
	l.t.Helper()
	entries, err := netlink.NeighList(linkNamed(l.t, g.Tap).Attrs().Index, unix.AF_BRIDGE)
	must(l.t, err)
	return len(entries)
}

// TestAGuestThatFloodsTheResolver asks without end, as fast as its tap takes it,
// while another guest asks as resolvers do.
func TestAGuestThatFloodsTheResolver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	guests := l.guests(l.network(), 2)
	bad, good := guests[0], guests[1]
	packed, err := new(dns.Msg).SetQuestion("flood.example.", dns.TypeA).Pack()
	must(t, err)
	query := etherFrame(macOf(bad.Gateway), macOf(bad.Addr.Addr()), typeIPv4, udpPacket(bad.Addr.Addr(), bad.Gateway, 53, packed))
	done := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				bad.send(query)
			}
		}
	})
	lost := 0
	for range 50 {
		if good.lookUp("udp", time.Second) != nil {
			lost++
		}
	}
	close(done)
	flood.Wait()
	if lost > 5 {
		t.Errorf("of another guest's 50 queries %d were lost", lost)
	}
}

func TestGuestsCannotCallAll(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	g := l.guests(n, 1)[0]
	everybody, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 6000})
	must(t, err)
	defer everybody.Close()
	link, err := net.InterfaceByName(l.cfg.Bridge)
	must(t, err)
	group := netip.MustParseAddr("224.0.0.251")
	members, err := net.ListenMulticastUDP("udp4", link, &net.UDPAddr{IP: group.AsSlice(), Port: 5353})
	must(t, err)
	defer members.Close()

	for _, try := range []struct {
		what string
		at   *net.UDPConn
		to   netip.AddrPort
		rule string
	}{
		{"the network's broadcast address", everybody, netip.MustParseAddrPort("172.16.0.255:6000"), "no broadcast"},
		{"the broadcast address of all", everybody, netip.MustParseAddrPort("255.255.255.255:6000"), "no broadcast"},
		{"the broadcast address of the host's uplink", everybody, netip.MustParseAddrPort("192.0.2.255:6000"), "no broadcast"},
		{"a multicast group", members, netip.AddrPortFrom(group, 5353), "no multicast"},
	} {
		if g.isHeard(try.at, try.to) {
			t.Errorf("a guest is heard at %s", try.what)
		}
		put := l.take(n, try.rule)
		if !g.isHeard(try.at, try.to) {
			t.Errorf("a guest is not heard at %s without the rule either, so the test shows nothing", try.what)
		}
		put()
	}
}

func (g *guest) isHeard(at *net.UDPConn, to netip.AddrPort) bool {
	g.t.Helper()
	g.in(g.ns, func() {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
		must(g.t, err)
		defer c.Close()
		_, err = c.Write([]byte("hello"))
		must(g.t, err)
	})
	g.resolves() // what was sent before has arrived by now, or never will
	must(g.t, at.SetReadDeadline(time.Now().Add(time.Millisecond)))
	_, _, err := at.ReadFromUDPAddrPort(make([]byte, 100))
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		g.t.Fatal(err)
	}
	return err == nil
}
