//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/testenv"
)

// What the one guest does, and what the other hears of it meanwhile.
var (
	//go:embed hostile/tries.sh
	tries string
	//go:embed hostile/frames.py
	frames string
	//go:embed hostile/ears.py
	ears string
)

// A guest tries by real tools what it must not: to reach the other guest, the
// host and the metadata address, over IPv4 and IPv6, to be another, and to fill
// the bridge's table. Then the rules are taken away, and the same tries succeed.
func TestAttackFromAGuest(t *testing.T) {
	p := newPerson(t)
	p.banger("image", "register", "--name", "hostile", "--rootfs", filepath.Join(initsDir, "hostile.ext4"), "--kernel-ref", "generic-6.12")
	bad, good := p.guest("bad"), p.guest("good")
	h := p.openHost()
	good.serve()

	neighbours := []string{"up " + h.gateway, "up " + bad.vm.Address, "seen end"}
	met := bad.tryAll(h, good)
	allowed := sorted(neighbours, "open "+h.gateway+":53", "open "+testenv.ServerAddr+":53", "open "+testenv.ServerAddr+":80")
	if diff := cmp.Diff(allowed, met); diff != "" {
		t.Errorf("a guest can do more (+) or less (-) than it may:\n%s", diff)
	}

	p.killDaemon() // it would put the rules back
	h.unguard(bad, good)
	met = bad.tryAll(h, good)
	if diff := cmp.Diff(sorted(neighbours, forbidden(h, good)...), met); diff != "" {
		t.Errorf("without the rules a guest can't do all of that (-), so the test shows nothing, or there is more (+):\n%s", diff)
	}
}

// forbidden is all that the tries come to when nothing holds them.
func forbidden(h *openHost, good *guest) []string {
	all := []string{
		"up " + good.vm.Address,
		"arping " + good.vm.Address,
		"open " + good.vm.Address + ":80",
		"by the host " + good.vm.Address + ":80",
		"open " + h.gateway + ":8080",
		"open " + testenv.OutsideAddr + ":8080",
		"open " + metadata + ":8080",
		"open " + good.six + ":80",
		"open " + h.six + ":8080",
		"answers " + good.six,
		"answers " + h.six,
		"the bridge has learned",
		"the host hears a broadcast",
		"the host hears a multicast",
	}
	for _, name := range []string{
		"other-machine", "nobodys-mac", "others-address", "gateways-address", "arp-as-gateway", "arp-as-other",
		"dhcp-as-gateway", "vlan", "router", "its-address", "its-mac",
	} {
		all = append(all, "seen "+name)
	}
	for _, name := range []string{"arp-as-gateway", "dhcp-as-gateway", "router"} { // those to everybody
		all = append(all, "heard "+name)
	}
	return all
}

func sorted(list []string, more ...string) []string {
	return slices.Sorted(slices.Values(append(slices.Clone(list), more...)))
}

// guest is a VM that is spoken to without its daemon.
type guest struct {
	*person
	vm    api.VM
	tap   netlink.Link
	six   string // its link-local address
	agent *host.Agent
}

func (p *person) guest(name string) *guest {
	p.Helper()
	p.banger("vm", "create", "--name", name, "--image", "hostile", "--vcpus", "1", "--memory", "512M", "--disk", "2G", "--wait", "agent")
	g := &guest{person: p}
	p.check(json.Unmarshal([]byte(p.banger("vm", "show", name, "--json")), &g.vm))
	link := filepath.Join(p.value("XDG_RUNTIME_DIR"), "banger/vm", g.vm.ID, firecracker.VsockSocket)
	g.agent = host.New(func(ctx context.Context, port uint32) (net.Conn, error) {
		return firecracker.DialVsock(ctx, link, port)
	})
	data, err := os.ReadFile(filepath.Join(g.vm.Dir, "vm.json"))
	p.check(err)
	var record struct{ Lease struct{ Tap string } }
	p.check(json.Unmarshal(data, &record))
	g.tap, err = netlink.LinkByName(record.Lease.Tap)
	p.check(err)
	g.six = regexp.MustCompile(`fe80::[0-9a-f:]+`).FindString(g.exec(nil, "ip -6 -oneline address show dev eth0 scope link"))
	if g.six == "" {
		p.Fatalf("guest %s has no link-local address", name)
	}
	return g
}

func (p *person) check(err error) {
	p.Helper()
	if err != nil {
		p.Fatal(err)
	}
}

// value is that of a variable of the person's environment.
func (p *person) value(name string) string {
	for _, v := range p.env {
		if value, ok := strings.CutPrefix(v, name+"="); ok {
			return value
		}
	}
	return ""
}

func (p *person) killDaemon() {
	p.Helper()
	var status struct{ PID int }
	p.check(json.Unmarshal([]byte(p.banger("daemon", "status", "--json")), &status))
	p.check(syscall.Kill(status.PID, syscall.SIGKILL))
	p.check(testenv.AwaitEnd(status.PID, patience))
}

// exec runs a shell's script and gives its output.
func (g *guest) exec(env map[string]string, script string) string {
	g.Helper()
	var out bytes.Buffer
	g.check(g.run(&out, proto.Exec{Argv: []string{"sh", "-c", script}, Env: env}))
	return out.String()
}

func (g *guest) run(out io.Writer, e proto.Exec) error {
	ctx, cancel := context.WithTimeout(g.Context(), patience)
	defer cancel()
	conn, err := g.agent.Exec(ctx, e)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	_, err = proto.NewCommand(conn).Run(nil, out, out)
	return err
}

// start runs a Python program that says "up" when it is; what it says after
// that can be read until it ends.
func (g *guest) start(program string) *bufio.Reader {
	g.Helper()
	out, in := io.Pipe()
	go func() { in.CloseWithError(g.run(in, proto.Exec{Argv: []string{"python3", "-c", program}})) }()
	g.Cleanup(func() { out.Close() })
	r := bufio.NewReader(out)
	if line, err := r.ReadString('\n'); line != "up\n" {
		rest, _ := io.ReadAll(r)
		g.Fatalf("the guest's program said %q%q, %v", line, rest, err)
	}
	return r
}

// serve opens a port over IPv4 and IPv6.
func (g *guest) serve() {
	g.Helper()
	g.start(`import socket
s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
print("up", flush=True)
while True: s.accept()`)
}

// over ends the ears of the guest that runs it: they hear what it says itself.
const over = `import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
wire.bind(("eth0", 0))
wire.send(bytes(12) + b"\x88\xb5try:over;")`

// tryAll gives all that came of the tries.
func (g *guest) tryAll(h *openHost, other *guest) []string {
	g.Helper()
	learned := h.learned(g)
	heard := other.start(ears)
	said := g.exec(map[string]string{
		"FRAMES":  frames,
		"GATEWAY": h.gateway, "GATEWAY_MAC": h.bridge.Attrs().HardwareAddr.String(), "HOST_SIX": h.six,
		"OWN": g.vm.Address, "OWN_MAC": g.vm.MAC,
		"OTHER": other.vm.Address, "OTHER_MAC": other.vm.MAC, "OTHER_SIX": other.six,
		"OUTSIDE": testenv.OutsideAddr, "SERVER": testenv.ServerAddr, "METADATA": metadata,
		"RANGE": strings.TrimSuffix(h.gateway, ".1") + ".0/29",
	}, `printf %s "$FRAMES" > /root/frames.py; exec 2>&1; `+tries)
	g.Logf("%s", said)
	met := slices.Concat(read(said, g.six), h.seen(), h.heard())
	if h.learned(g) > learned {
		met = append(met, "the bridge has learned")
	}
	other.exec(nil, "python3 -c '"+over+"'")
	rest, err := io.ReadAll(heard)
	g.check(err)
	met = append(met, strings.FieldsFunc(string(rest), func(r rune) bool { return r == '\n' })...)
	slices.Sort(met)
	return slices.Compact(met)
}

var (
	scanned  = regexp.MustCompile(`^Host: (\S+) .*(?:Status: (Up)|Ports: (.*))`)
	openPort = regexp.MustCompile(`(\d+)/open/`)
	replied  = regexp.MustCompile(`(?:reply|bytes) from ([0-9a-f.:]+[0-9a-f])`)
)

// read finds in the tools' words what they have found; own is the guest's own
// address, which answers too.
func read(said, own string) []string {
	var met []string
	section := ""
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "== "); ok {
			section = name
			continue
		}
		if m := scanned.FindStringSubmatch(line); m != nil {
			addr, _, _ := strings.Cut(m[1], "%")
			if m[2] != "" && section == "up" {
				met = append(met, "up "+addr)
			}
			for _, port := range openPort.FindAllStringSubmatch(m[3], -1) {
				met = append(met, map[bool]string{true: "by the host ", false: "open "}[section == "by the host"]+addr+":"+port[1])
			}
		}
		if m := replied.FindStringSubmatch(line); m != nil && m[1] != own && section != "frames" {
			met = append(met, map[string]string{"arping": "arping ", "IPv6": "answers "}[section]+m[1])
		}
	}
	return met
}

// metadata is where clouds keep credentials.
const metadata = "169.254.169.254"

// openHost is a host that would be reached by every try: it serves on all its
// addresses, has one of the metadata service and speaks IPv6 on the bridge.
type openHost struct {
	*person
	gateway, six string
	bridge       netlink.Link
	wire         int // sees all frames that reach the bridge
	broadcasts   *net.UDPConn
	multicasts   *net.UDPConn
}

func (p *person) openHost() *openHost {
	p.Helper()
	h := &openHost{person: p, gateway: p.value("BANGER_BRIDGE_IP")}
	var err error
	h.bridge, err = netlink.LinkByName(p.value("BRIDGE"))
	p.check(err)
	p.check(os.WriteFile("/proc/sys/net/ipv6/conf/"+p.value("BRIDGE")+"/disable_ipv6", []byte("0"), 0))
	h.six = h.linkLocal()

	loopback, err := netlink.LinkByName("lo")
	p.check(err)
	addr, err := netlink.ParseAddr(metadata + "/32")
	p.check(err)
	p.check(netlink.AddrAdd(loopback, addr))
	p.Cleanup(func() { p.check(netlink.AddrDel(loopback, addr)) })

	service, err := net.Listen("tcp", ":8080")
	p.check(err)
	p.Cleanup(func() { service.Close() })
	h.broadcasts, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 6000})
	p.check(err)
	p.Cleanup(func() { h.broadcasts.Close() })
	link, err := net.InterfaceByIndex(h.bridge.Attrs().Index)
	p.check(err)
	h.multicasts, err = net.ListenMulticastUDP("udp4", link, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
	p.check(err)
	p.Cleanup(func() { h.multicasts.Close() })
	h.tap()
	return h
}

// linkLocal waits for the bridge's own address.
func (h *openHost) linkLocal() string {
	h.Helper()
	changes, done := make(chan netlink.AddrUpdate, 16), make(chan struct{})
	defer close(done)
	h.check(netlink.AddrSubscribe(changes, done))
	for late := time.After(patience); ; {
		addrs, err := netlink.AddrList(h.bridge, netlink.FAMILY_V6)
		h.check(err)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
				return a.IP.String()
			}
		}
		select {
		case <-changes:
		case <-late:
			h.Fatal("the bridge gets no link-local address")
		}
	}
}

const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the network's order

func (h *openHost) tap() {
	h.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, allProtocols&0xffff)
	h.check(err)
	h.Cleanup(func() { unix.Close(fd) })
	h.check(unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols & 0xffff, Ifindex: h.bridge.Attrs().Index}))
	h.check(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20))
	h.check(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 30}))
	h.wire = fd
}

var tried = regexp.MustCompile(`try:([a-z-]+);`)

// seen gives the tries whose frames have come to the bridge, up to the end. The
// host's replies, which repeat a ping's pattern, are none.
func (h *openHost) seen() []string {
	h.Helper()
	var seen []string
	frame := make([]byte, 1<<16)
	for !slices.Contains(seen, "seen end") {
		n, from, err := unix.Recvfrom(h.wire, frame, 0)
		if err != nil {
			h.Fatalf("the end of the tries never came: %v", err)
		}
		link, ok := from.(*unix.SockaddrLinklayer)
		if m := tried.FindSubmatch(frame[:n]); m != nil && ok && link.Pkttype != unix.PACKET_OUTGOING {
			seen = append(seen, "seen "+string(m[1]))
		}
	}
	return seen
}

// heard looks what has come to sockets of the host.
func (h *openHost) heard() []string {
	h.Helper()
	var heard []string
	for what, conn := range map[string]*net.UDPConn{"broadcast": h.broadcasts, "multicast": h.multicasts} {
		h.check(conn.SetReadDeadline(time.Now().Add(time.Second))) // what has come is not read behind it
		_, _, err := conn.ReadFromUDPAddrPort(make([]byte, 100))
		switch {
		case err == nil:
			heard = append(heard, "the host hears a "+what)
		case !errors.Is(err, os.ErrDeadlineExceeded):
			h.Fatal(err)
		}
	}
	return heard
}

// learned is how many addresses the bridge knows behind a guest's tap.
func (h *openHost) learned(g *guest) int {
	h.Helper()
	entries, err := netlink.NeighList(g.tap.Attrs().Index, unix.AF_BRIDGE)
	h.check(err)
	return len(entries)
}

// unguard takes banger's rules away, and what confines the guests' ports.
func (h *openHost) unguard(guests ...*guest) {
	h.Helper()
	kernel, err := nftables.New()
	h.check(err)
	name := "banger-" + h.value("BRIDGE")
	kernel.DelTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: name})
	kernel.DelTable(&nftables.Table{Family: nftables.TableFamilyBridge, Name: name})
	h.check(kernel.Flush())
	for _, g := range guests {
		out, err := exec.Command("bridge", "link", "set", "dev", g.tap.Attrs().Name,
			"isolated", "off", "learning", "on", "flood", "on", "mcast_flood", "on", "bcast_flood", "on").CombinedOutput()
		if err != nil {
			h.Fatalf("bridge link set: %v\n%s", err, out)
		}
	}
}
