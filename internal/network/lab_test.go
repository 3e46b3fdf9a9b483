//go:build hosttest

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// inNamespace runs the rest of the test in a process of its own in fresh
// network and mount namespaces: it gives true in there, and in the first
// process, when that one has ended, false.
//
//	if !inNamespace(t) {
//		return
//	}
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		enterNamespace(t)
		return true
	}
	t.Parallel()
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a namespace of its own:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return false
}

const inside = "BANGER_TEST_NAMESPACE"

func enterNamespace(t *testing.T) {
	t.Helper()
	must(t, unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""))
	must(t, unix.Mount("proc", "/proc", "proc", 0, ""))
	must(t, writeForwarding("0")) // a new namespace takes it from the host's first one
	setUp(t, "lo")
}

// Addresses of the lab.
var (
	testConfig   = Config{Bridge: "banger0", Addr: netip.MustParsePrefix("172.16.0.1/24"), UIDBase: 720000}
	hostOutside  = netip.MustParseAddr("192.0.2.2") // the host's own, on its uplink
	internetSide = netip.MustParseAddr("192.0.2.1") // its default gateway
	webServer    = netip.MustParseAddr("198.51.100.1")
	metadata     = netip.MustParseAddr("169.254.169.254")
)

// lab is a host with an internet behind it: servers in a namespace of their
// own.
type lab struct {
	t        *testing.T
	host     netns.NsHandle
	internet netns.NsHandle
	cfg      Config
	log      *slog.Logger
	changes  *ruleset.Watch // of rules, once it watches
	served   bool           // the host has a service at port 8080
}

func newLab(t *testing.T) *lab {
	t.Helper()
	host, err := netns.Get()
	must(t, err)
	l := &lab{t: t, host: host, cfg: testConfig, log: testLog(t)}
	l.cfg.State = t.TempDir()
	l.cfg.Upstreams = []netip.AddrPort{netip.AddrPortFrom(webServer, 53)}
	l.internet = l.namespace()
	l.wire("wan0", hostOutside, l.internet, "isp0", internetSide)
	l.route(l.host, netip.MustParsePrefix("0.0.0.0/0"), internetSide)
	l.in(l.internet, func() {
		addAddr(t, "lo", netip.PrefixFrom(webServer, 32))
		addAddr(t, "lo", netip.PrefixFrom(metadata, 32))
		l.serveTCP(":80")
		l.serveDNS(":53")
	})
	l.route(l.host, netip.PrefixFrom(metadata, 32), internetSide)
	return l
}

// testLog goes to the test's output while it runs: a test that hangs shows it.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// namespace makes a network namespace with its loopback up.
func (l *lab) namespace() netns.NsHandle {
	l.t.Helper()
	var made netns.NsHandle
	l.in(l.host, func() {
		var err error
		made, err = netns.New()
		must(l.t, err)
		setUp(l.t, "lo")
	})
	l.t.Cleanup(func() { made.Close() })
	return made
}

// in runs do on a thread in the namespace.
func (l *lab) in(ns netns.NsHandle, do func()) {
	l.t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := netns.Get()
	must(l.t, err)
	defer before.Close()
	must(l.t, netns.Set(ns))
	defer func() {
		if err := netns.Set(before); err != nil {
			panic(err)
		}
	}()
	do()
}

// wire joins the host and a namespace by a pair of links.
func (l *lab) wire(here string, hereAddr netip.Addr, ns netns.NsHandle, there string, thereAddr netip.Addr) {
	l.t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = here
	must(l.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: there, PeerNamespace: netlink.NsFd(ns)}))
	addAddr(l.t, here, netip.PrefixFrom(hereAddr, 24))
	setUp(l.t, here)
	l.in(ns, func() {
		addAddr(l.t, there, netip.PrefixFrom(thereAddr, 24))
		setUp(l.t, there)
	})
}

func (l *lab) route(ns netns.NsHandle, to netip.Prefix, via netip.Addr) {
	l.t.Helper()
	l.in(ns, func() {
		dst := &net.IPNet{IP: to.Addr().AsSlice(), Mask: net.CIDRMask(to.Bits(), 32)}
		must(l.t, netlink.RouteReplace(&netlink.Route{Dst: dst, Gw: via.AsSlice()}))
	})
}

// serveTCP answers each connection, in the thread's namespace, with the address
// it came from.
func (l *lab) serveTCP(addr string) {
	l.t.Helper()
	ln, err := net.Listen("tcp4", addr)
	must(l.t, err)
	l.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}()
}

func (l *lab) serveDNS(addr string) {
	l.t.Helper()
	pc, err := net.ListenPacket("udp4", addr)
	must(l.t, err)
	server := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: webServer.AsSlice()}}
		w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	l.t.Cleanup(func() { server.Shutdown() })
}

// network makes a Network that is closed with the test.
func (l *lab) network() *Network {
	n := New(l.cfg, l.log)
	l.t.Cleanup(func() {
		if err := n.Close(context.Background(), nil); err != nil {
			l.t.Error(err)
		}
	})
	return n
}

// guests attaches as many and starts each.
func (l *lab) guests(n *Network, count int) []*guest {
	l.t.Helper()
	leases := l.leases(count)
	must(l.t, n.Set(context.Background(), leases))
	var guests []*guest
	for _, lease := range leases {
		guests = append(guests, l.start(lease))
	}
	return guests
}

func (l *lab) leases(count int) []Lease {
	l.t.Helper()
	var leases []Lease
	for range count {
		lease, err := l.cfg.Pick(leases)
		must(l.t, err)
		leases = append(leases, lease)
	}
	return leases
}

// guest is a kernel of its own, as far as the network goes: a namespace whose
// eth0 is joined to the lease's tap by a program that has both open, as a VMM
// would.
type guest struct {
	*lab
	Lease
	ns  netns.NsHandle
	vmm *os.File // the tap
	nic *os.File // the other end
}

func (l *lab) start(lease Lease) *guest {
	l.t.Helper()
	g := &guest{lab: l, Lease: lease, ns: l.namespace(), vmm: openTestTap(l.t, lease.Tap)}
	l.in(g.ns, func() {
		g.nic = openTestTap(l.t, "eth0")
		mac, err := net.ParseMAC(lease.MAC)
		must(l.t, err)
		must(l.t, netlink.LinkSetHardwareAddr(linkNamed(l.t, "eth0"), mac))
		addAddr(l.t, "eth0", lease.Addr)
		setUp(l.t, "eth0")
		for _, link := range []string{"all", "eth0"} { // it goes where it wants, not where its host says
			must(l.t, os.WriteFile("/proc/sys/net/ipv4/conf/"+link+"/accept_redirects", []byte("0"), 0))
		}
	})
	l.route(g.ns, netip.MustParsePrefix("0.0.0.0/0"), lease.Gateway)
	var pumps sync.WaitGroup
	pumps.Go(func() { pump(g.vmm, g.nic) })
	pumps.Go(func() { pump(g.nic, g.vmm) })
	l.t.Cleanup(func() {
		g.stop()
		pumps.Wait()
	})
	l.awaitCarrier(lease.Tap)
	return g
}

// awaitCarrier returns when the kernel has seen that the tap is open, as it does in
// its own time: until then the bridge takes no frame of it.
func (l *lab) awaitCarrier(tap string) {
	l.t.Helper()
	for late := time.Now().Add(soon); linkNamed(l.t, tap).Attrs().OperState != netlink.OperUp; {
		if time.Now().After(late) {
			l.t.Fatalf("tap %s is open, and the kernel does not see it", tap)
		}
	}
}

// stop is the end of the VMM.
func (g *guest) stop() {
	g.vmm.Close()
	g.nic.Close()
}

func openTestTap(t *testing.T, name string) *os.File {
	t.Helper()
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	must(t, err)
	ifr, err := unix.NewIfreq(name)
	must(t, err)
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	must(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr))
	return os.NewFile(uintptr(fd), name)
}

func pump(from, to *os.File) {
	frame := make([]byte, 1<<16)
	for {
		n, err := from.Read(frame)
		if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.EBADFD) {
			return
		}
		if err == nil {
			to.Write(frame[:n])
		}
	}
}

// soon and shortly bound what should happen, and what should not.
const (
	soon    = 20 * time.Second
	shortly = 400 * time.Millisecond
)

// dial connects from the namespace and gives what the server said.
func (l *lab) dial(ns netns.NsHandle, addr netip.Addr, port uint16, patience time.Duration) (said string, err error) {
	l.t.Helper()
	l.in(ns, func() {
		var c net.Conn
		c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(addr, port).String(), patience)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		var b []byte
		b, err = io.ReadAll(c)
		said = string(b)
	})
	return said, err
}

func (g *guest) reaches(addr netip.Addr, port uint16) {
	g.t.Helper()
	if _, err := g.dial(g.ns, addr, port, soon); err != nil {
		g.t.Errorf("%v does not reach %v:%d: %v", g.Addr, addr, port, err)
	}
}

func (g *guest) resolves() {
	g.t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		if err := g.lookUp(network, soon); err != nil {
			g.t.Errorf("%v cannot resolve a name over %s: %v", g.Addr, network, err)
		}
	}
}

func (g *guest) lookUp(network string, patience time.Duration) (err error) {
	g.in(g.ns, func() {
		client := &dns.Client{Net: network, Timeout: patience}
		var reply *dns.Msg
		reply, _, err = client.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), netip.AddrPortFrom(g.DNS, 53).String())
		if err == nil && len(reply.Answer) == 0 {
			err = fmt.Errorf("the answer is %v", reply)
		}
	})
	return err
}

// works is all that a guest may do.
func (g *guest) works() {
	g.t.Helper()
	said, err := g.dial(g.ns, webServer, 80, soon)
	if err != nil || said != hostOutside.String() {
		g.t.Errorf("%v calls the internet: it was seen as %q, %v; want %v", g.Addr, said, err, hostOutside)
	}
	g.resolves()
}

// run runs a program of the host in the host's namespace.
func (l *lab) run(name string, args ...string) string {
	l.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func addAddr(t *testing.T, name string, p netip.Prefix) {
	t.Helper()
	addr := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
	must(t, netlink.AddrAdd(linkNamed(t, name), &netlink.Addr{IPNet: addr}))
}

func setUp(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkSetUp(linkNamed(t, name)))
}

func linkNamed(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("link %s: %v", name, err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
