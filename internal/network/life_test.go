//go:build hosttest

package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
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
	"github.com/banger-vm/banger/internal/network/ruleset"
)

// state is all that a network may leave behind.
func (l *lab) state() string {
	l.t.Helper()
	files, err := filepath.Glob(filepath.Join(l.cfg.State, "*"))
	must(l.t, err)
	forwarding, err := os.ReadFile(forwardingFile)
	must(l.t, err)
	return strings.Join([]string{
		l.allLinks(), withoutUplink(l.run("ip", "-4", "-oneline", "address")), withoutUplink(l.run("ip", "route")), withoutUplink(l.run("ip", "neighbour")),
		l.rules(), "forwarding " + string(forwarding), strings.Join(files, "\n"),
	}, "\n")
}

func (l *lab) allLinks() string {
	l.t.Helper()
	links, err := consistent(netlink.LinkList)
	must(l.t, err)
	var names []string
	for _, link := range links {
		names = append(names, fmt.Sprintf("link %s: %s, master %d", link.Attrs().Name, link.Type(), link.Attrs().MasterIndex))
	}
	slices.Sort(names)
	return strings.Join(names, "\n")
}

// withoutUplink leaves out what changes by itself: the lab's own link to its
// internet comes up, and learns who is there.
func withoutUplink(listed string) string {
	var kept []string
	for line := range strings.Lines(listed) {
		if !strings.Contains(line, "wan0") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "")
}

func TestNothingIsLeft(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 3
	before := l.state()
	n := New(l.cfg, l.log)
	for _, g := range l.guests(n, 3) {
		g.works()
		g.stop()
	}
	must(t, n.Set(context.Background(), nil))
	must(t, n.Close(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the network left this (+):\n%s", diff)
	}
}

func TestNothingIsMadeUntilItIsNeeded(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 3
	before := l.state()
	n := New(l.cfg, l.log)
	must(t, n.Set(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("without VMs there is (+):\n%s", diff)
	}
	must(t, n.Close(context.Background(), nil))
}

func TestForwardingStaysOnWhereItWas(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	must(t, writeForwarding("1"))
	n := New(l.cfg, l.log)
	must(t, n.Set(context.Background(), l.leases(1)))
	must(t, n.Close(context.Background(), nil))
	l.forwardingIs("1")
}

func TestForwardingStaysOnForALaterDocker(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := New(l.cfg, l.log)
	must(t, n.Set(context.Background(), l.leases(1)))
	l.docker("testdata/docker.rules").start()
	must(t, n.Close(context.Background(), nil))
	l.forwardingIs("1")
}

// TestTwoNetworksSideBySide has one end before the other.
func TestTwoNetworksSideBySide(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	first := New(l.cfg, l.log)
	a := l.guests(first, 1)[0]
	l.cfg.Bridge, l.cfg.Addr = "development-two", netip.MustParsePrefix("172.20.0.1/16")
	second := l.network()
	b := l.guests(second, 1)[0]
	b.in(b.ns, func() { b.serveTCP(":80") })
	a.works()
	b.works()
	if _, err := a.dial(a.ns, b.Addr.Addr(), 80, shortly); err == nil {
		t.Error("a guest of one network reaches one of another")
	}
	a.stop()
	must(t, first.Close(context.Background(), nil))
	b.works()
}

func TestFindings(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.finds("network rights", api.LevelOK, "can be made")
	l.finds("network names", api.LevelOK, "is free")
	l.finds("IP forwarding", api.LevelOK, "off; banger switches it on")
	l.finds("firewalls", api.LevelOK, "nothing drops")
	l.finds("connection limits", api.LevelOK, "its share")

	n := l.network()
	must(t, n.Set(context.Background(), l.leases(1)))
	l.finds("network names", api.LevelOK, "is free for banger")
	l.finds("IP forwarding", api.LevelOK, "on")
	must(t, writeForwarding("0"))
	l.finds("IP forwarding", api.LevelWarning, "something else has switched it off")

	l.docker("testdata/docker.rules").start()
	l.finds("firewalls", api.LevelOK, "let through in DOCKER-USER")
	l.run("nft", "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; policy drop; }")
	l.finds("firewalls", api.LevelWarning, "table inet filter, chain forward")

	other := *l
	other.cfg.Bridge = "wan0"
	other.finds("network names", api.LevelError, "the name wan0 is taken")
	other.cfg.Bridge, other.cfg.Addr = "br1", netip.MustParsePrefix("192.0.2.1/24")
	other.finds("network names", api.LevelError, "is in use on this host by")
}

func TestLegacyTablesAreTold(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.run("iptables-legacy", "-P", "FORWARD", "DROP")
	l.finds("firewalls", api.LevelWarning, "old iptables tables")
}

func (l *lab) finds(check string, level api.Level, detail string) {
	l.t.Helper()
	all := Findings(l.cfg)
	at := slices.IndexFunc(all, func(f api.Finding) bool { return f.Check == check })
	if at < 0 {
		l.t.Fatalf("there is no finding of %q", check)
	}
	if f := all[at]; f.Level != level || !strings.Contains(f.Detail, detail) || level != api.LevelOK && f.Hint == "" {
		l.t.Errorf("finding %+v, want %s: …%s…", f, level, detail)
	}
}

func (l *lab) forwardingIs(want string) {
	l.t.Helper()
	got, err := readForwarding()
	must(l.t, err)
	if got != want {
		l.t.Errorf("net.ipv4.ip_forward is %s, want %s", got, want)
	}
}

func TestTheSameTwiceChangesNothing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	leases := l.leases(3)
	must(t, n.Set(context.Background(), leases))
	l.watchRules()
	links := make(chan netlink.LinkUpdate, 100)
	done := make(chan struct{})
	defer close(done)
	must(t, netlink.LinkSubscribe(links, done))
	must(t, n.Set(context.Background(), leases))

	marker := ruleset.Table{Family: nftables.TableFamilyINet, Name: "marker"}
	must(t, new(ruleset.Kernel).Replace([]ruleset.Table{marker}))
	touched := ruleset.Change{}
	l.until("the marker is seen", func() bool {
		touched = touched.And(l.changes.Take())
		return touched.Tables[ruleset.TableID{Family: marker.Family, Name: marker.Name}]
	})
	if len(touched.Tables) != 1 {
		t.Errorf("a second Set touched %v", touched.Tables)
	}
	must(t, new(ruleset.Kernel).Remove([]ruleset.Table{marker}))
	addAddr(t, "lo", netip.MustParsePrefix("127.9.9.9/32"))
	setDown(t, "wan0") // the marker among links
	for u := range links {
		if u.Attrs().Name == "wan0" {
			break
		}
		t.Errorf("a second Set touched %s", u.Attrs().Name)
	}
}

func setDown(t *testing.T, name string) {
	t.Helper()
	must(t, netlink.LinkSetDown(linkNamed(t, name)))
}

func TestTapsAreKeptReady(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 2
	n := l.network()
	links := make(chan netlink.LinkUpdate, 1000)
	done := make(chan struct{})
	defer close(done)
	must(t, netlink.LinkSubscribe(links, done))
	must(t, n.Set(context.Background(), l.leases(2)))
	l.untilTaps(links, 0, 1, 2, 3)
	must(t, n.Set(context.Background(), l.leases(4)))
	l.untilTaps(links, 0, 1, 2, 3, 4, 5)
	for slot := range 6 {
		l.checkTap(slot)
	}
	leases := l.leases(4)
	must(t, n.Set(context.Background(), []Lease{leases[0], leases[3]}))
	l.untilTaps(links, 0, 1, 2, 3)
	must(t, n.Close(context.Background(), leases[:1]))
	l.untilTaps(links, 0)
	must(t, n.host.removeLink(l.cfg.tap(0)))
}

// untilTaps waits, from change to change of the links, until these taps are up
// and no others are there.
func (l *lab) untilTaps(links <-chan netlink.LinkUpdate, slots ...int) {
	l.t.Helper()
	late := time.After(soon)
	for {
		have := l.taps()
		if slices.Equal(have, slots) {
			return
		}
		select {
		case <-links:
		case <-late:
			l.t.Fatalf("taps are %v, want %v", have, slots)
		}
	}
}

func (l *lab) taps() []int {
	l.t.Helper()
	all, err := consistent(netlink.LinkList)
	must(l.t, err)
	var have []int
	for _, link := range all {
		if slot, ok := l.cfg.slotOf(link.Attrs().Name); ok && link.Attrs().Flags&net.FlagUp != 0 {
			have = append(have, slot)
		}
	}
	slices.Sort(have)
	return have
}

// checkTap looks whether a VMM of the slot's user could open it, and nobody be
// reached from it.
func (l *lab) checkTap(slot int) {
	l.t.Helper()
	link := linkNamed(l.t, l.cfg.tap(slot)).(*netlink.Tuntap)
	if int(link.Owner) != l.cfg.UIDBase+slot || link.Attrs().Alias != alias {
		l.t.Errorf("%s belongs to %d and is called %q", link.Name, link.Owner, link.Attrs().Alias)
	}
	port, err := netlink.LinkGetProtinfo(link)
	must(l.t, err)
	if !port.Isolated || port.Learning || port.Flood {
		l.t.Errorf("%s is a port with %v", link.Name, port)
	}
	if six, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + link.Name + "/disable_ipv6"); err != nil || six[0] != '1' {
		l.t.Errorf("%s has IPv6: %q, %v", link.Name, six, err)
	}
}

// TestOnlyItsUserOpensATap opens taps as a VMM does, under its uid.
func TestOnlyItsUserOpensATap(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	must(t, os.MkdirAll("/dev/net", 0o755))
	must(t, unix.Mount("none", "/dev/net", "tmpfs", 0, "mode=755"))
	must(t, unix.Mknod(tunDevice, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(tunDevice, 0o666))
	leases := l.leases(2)
	must(t, l.network().Set(context.Background(), leases))
	for _, user := range leases {
		for _, tap := range leases {
			_, err := openAs(user.UID, tap.Tap)
			if (err == nil) != (user == tap) {
				t.Errorf("user %d opens %s: %v", user.UID, tap.Tap, err)
			}
		}
	}
}

func openAs(uid int, tap string) (string, error) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOpenTap$")
	cmd.Env = []string{"BANGER_TEST_TAP=" + tap}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestOpenTap is the part of a VMM for TestOnlyItsUserOpensATap.
func TestOpenTap(t *testing.T) {
	if tap := os.Getenv("BANGER_TEST_TAP"); tap != "" {
		openTestTap(t, tap).Close()
	}
}

func TestRulesComeBack(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	g := l.guests(n, 1)[0]
	l.watchRules()
	before := l.rules()
	l.run("nft", "flush", "ruleset") // as a restart of nftables.service does
	l.until("the rules are back", func() bool { return l.rules() == before })
	g.works()

	l.run("nft", "delete", "table", "inet", l.cfg.tableName())
	more := l.leases(2)
	must(t, n.Set(context.Background(), more)) // whether the watch came first or not
	l.until("both tables are back", func() bool { return strings.Count(l.rules(), "table") == 2 })
	l.start(more[1]).works()
}

// TestTheTextIsWhatNftPrints holds the words of the table tests against the
// kernel.
func TestTheTextIsWhatNftPrints(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	for _, table := range l.cfg.tables(l.leases(3), circumstances{uplinks: []string{"br0", "br1"}}) {
		must(t, new(ruleset.Kernel).Replace([]ruleset.Table{table}))
		fields := strings.Fields(table.String())
		printed := l.run("nft", "list", "table", fields[1], fields[2])
		if diff := cmp.Diff(inOneForm(table.String()), inOneForm(printed)); diff != "" {
			t.Errorf("nft prints it differently (+):\n%s", diff)
		}
	}
}

var elementList = regexp.MustCompile(`(?s)elements = \{(.*?)\}`)

// inOneForm sorts the elements of sets, which nft lists in the order of a hash.
func inOneForm(table string) []string {
	table = elementList.ReplaceAllStringFunc(table, func(list string) string {
		elements := strings.Split(elementList.FindStringSubmatch(list)[1], ",")
		for i, e := range elements {
			elements[i] = strings.TrimSpace(e)
		}
		slices.Sort(elements)
		return strings.Join(elements, ", ")
	})
	return strings.FieldsFunc(table, func(r rune) bool { return r == '\n' })
}

func TestIptablesStillReadsItsChains(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.docker("testdata/docker.rules").start()
	n := l.network()
	must(t, n.Set(context.Background(), l.leases(1)))
	want := `-N DOCKER-USER
-A DOCKER-USER -i banger0 -m comment --comment banger -j ACCEPT
-A DOCKER-USER -o banger0 -m comment --comment banger -j ACCEPT
-A DOCKER-USER -j RETURN
`
	if diff := cmp.Diff(want, l.run("iptables-nft", "-S", "DOCKER-USER")); diff != "" {
		t.Error(diff)
	}
	// Saved and restored by the host, they are still known for ours.
	saved := l.run("iptables-nft-save")
	restore := exec.Command("iptables-nft-restore")
	restore.Stdin = strings.NewReader(saved)
	must(t, restore.Run())
	must(t, n.host.openChains(l.cfg))
	if diff := cmp.Diff(want, l.run("iptables-nft", "-S", "DOCKER-USER")); diff != "" {
		t.Error(diff)
	}
}

func TestBridgeNameIsTaken(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.cfg.Bridge
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	before := l.state()
	n := New(l.cfg, l.log)
	l.refuses(n.Set(context.Background(), l.leases(1)), "the name banger0 is taken by an interface that is not banger's")
	must(t, n.Set(context.Background(), nil)) // without VMs it is no matter
	must(t, n.Close(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("it changed something:\n%s", diff)
	}
}

func TestRangeIsTaken(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	addAddr(t, "wan0", netip.MustParsePrefix("172.16.0.77/16"))
	before := l.state()
	n := l.network()
	l.refuses(n.Set(context.Background(), l.leases(1)), "the range 172.16.0.0/24 for VMs is in use on this host by the address 172.16.0.77/16 of wan0")
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("it changed something:\n%s", diff)
	}
	free, err := Free(l.cfg.Bridge)
	if err != nil || free != netip.MustParsePrefix("172.17.0.1/24") {
		t.Errorf("the range picked instead is %v, %v", free, err)
	}
	l.cfg.Addr = free
	l.guests(l.network(), 1)[0].works()
	if again, err := Free(l.cfg.Bridge); err != nil || again != free {
		t.Errorf("once it is in use the range picked is %v, %v", again, err)
	}
}

func TestAnotherNameServerHoldsThePort(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	pc, err := net.ListenPacket("udp4", ":53")
	must(t, err)
	defer pc.Close()
	before := l.state()
	l.refuses(l.network().Set(context.Background(), l.leases(1)), "another name server on this host holds port 53 on all addresses, 172.16.0.1 included")
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the failure left this (+):\n%s", diff)
	}
}

func (l *lab) refuses(err error, want string) {
	l.t.Helper()
	var said *api.Error
	if !errors.As(err, &said) || said.Kind != api.KindHost || said.Message != want || said.Hint == "" {
		l.t.Errorf("error is %#v, want of kind host with a hint: %s", err, want)
	}
}

// TestAHostWhoseUplinkIsABridge has guests go out by a bridge, but only by that
// one.
func TestAHostWhoseUplinkIsABridge(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	n := l.network()
	g := l.guests(n, 1)[0]
	g.works()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	uplink := linkNamed(t, "wan0")
	must(t, netlink.AddrDel(uplink, &netlink.Addr{IPNet: &net.IPNet{IP: hostOutside.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
	must(t, netlink.LinkSetMaster(uplink, linkNamed(t, "br0")))
	addAddr(t, "br0", netip.PrefixFrom(hostOutside, 24))
	setUp(t, "br0")
	l.route(l.host, netip.MustParsePrefix("0.0.0.0/0"), internetSide)
	if _, err := g.dial(g.ns, webServer, 80, shortly); err == nil {
		t.Error("a bridge is a way out before it is known as an uplink")
	}
	must(t, n.Set(context.Background(), []Lease{g.Lease}))
	g.reaches(webServer, 80)
}

// TestAdoption kills the process that holds the network, and has another take
// over.
func TestAdoption(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 2
	l.in(l.internet, func() { l.serveEcho(":7") })
	before := l.state()
	leases := l.leases(3)
	daemon := l.daemon(leases)
	guests := []*guest{l.start(leases[0]), l.start(leases[1])}
	guests[0].works()
	talk := guests[0].converse()
	talk("before")
	before0, before1 := linkNamed(t, leases[0].Tap).Attrs().Index, linkNamed(t, leases[1].Tap).Attrs().Index
	must(t, daemon.Process.Kill())
	daemon.Wait()
	talk("while no daemon lives")

	n := New(l.cfg, l.log)
	must(t, n.Set(context.Background(), leases[:2])) // the third ended meanwhile
	talk("after another took over")
	guests[0].works()
	guests[1].works()
	if linkNamed(t, leases[0].Tap).Attrs().Index != before0 || linkNamed(t, leases[1].Tap).Attrs().Index != before1 {
		t.Error("a running VM's tap was made anew")
	}
	guests[0].stop()
	guests[1].stop()
	must(t, n.Close(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the network left this (+):\n%s", diff)
	}
}

// TestLeftovers has nothing to adopt: what a killed process left goes.
func TestLeftovers(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.docker("testdata/docker.rules").start()
	before := l.state()
	l.cfg.Ready = 2
	daemon := l.daemon(l.leases(2))
	must(t, daemon.Process.Kill())
	daemon.Wait()
	must(t, New(l.cfg, l.log).Set(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("left over (+):\n%s", diff)
	}
}

// TestVMsOutliveTheDaemon closes the network in good order with a VM running.
func TestVMsOutliveTheDaemon(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 2
	before := l.state()
	l.in(l.internet, func() { l.serveEcho(":7") })
	n := New(l.cfg, l.log)
	g := l.guests(n, 2)[0]
	talk := g.converse()
	talk("before")
	must(t, n.Close(context.Background(), []Lease{g.Lease}))
	talk("while no daemon lives")
	if have := l.taps(); !slices.Equal(have, []int{0}) {
		t.Errorf("taps are left: %v", have)
	}
	n = New(l.cfg, l.log)
	must(t, n.Set(context.Background(), []Lease{g.Lease}))
	talk("after the next has come")
	g.works()
	must(t, n.Close(context.Background(), nil))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("the network left this (+):\n%s", diff)
	}
}

func (l *lab) serveEcho(addr string) {
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
			go io.Copy(c, c)
		}
	}()
}

// converse opens a connection to the internet that goes on from word to word.
func (g *guest) converse() (say func(string)) {
	g.t.Helper()
	var c net.Conn
	g.in(g.ns, func() {
		var err error
		c, err = net.DialTimeout("tcp4", netip.AddrPortFrom(webServer, 7).String(), soon)
		must(g.t, err)
	})
	g.t.Cleanup(func() { c.Close() })
	return func(word string) {
		g.t.Helper()
		must(g.t, c.SetDeadline(time.Now().Add(soon)))
		_, err := io.WriteString(c, word)
		must(g.t, err)
		back := make([]byte, len(word))
		if _, err := io.ReadFull(c, back); err != nil || !bytes.Equal(back, []byte(word)) {
			g.t.Fatalf("%s: said %q, heard %q, %v", g.Addr, word, back, err)
		}
	}
}

// daemon is another process that holds the network.
func (l *lab) daemon(leases []Lease) *exec.Cmd {
	l.t.Helper()
	task, err := json.Marshal(daemonTask{l.cfg, leases})
	must(l.t, err)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestDaemon$")
	cmd.Env = append(os.Environ(), "BANGER_TEST_DAEMON="+string(task))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	must(l.t, err)
	must(l.t, cmd.Start())
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		l.t.Fatalf("the daemon said %q", line)
	}
	return cmd
}

type daemonTask struct {
	Config Config
	Leases []Lease
}

// TestDaemon is the process to kill, for TestAdoption and TestLeftovers.
func TestDaemon(t *testing.T) {
	text := os.Getenv("BANGER_TEST_DAEMON")
	if text == "" {
		return
	}
	var task daemonTask
	must(t, json.Unmarshal([]byte(text), &task))
	n := New(task.Config, testLog(t))
	must(t, n.Set(context.Background(), task.Leases))
	must(t, n.tidyUntil(context.Background()))
	os.Stdout.WriteString("ready\n")
	select {}
}

// TestManyLives has VMs come and go, and at the end as much as at the start.
func TestManyLives(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.cfg.Ready = 2
	n := l.network()
	leases := l.leases(5)
	must(t, n.Set(context.Background(), leases[:1]))
	must(t, n.tidyUntil(context.Background()))
	before, files := l.state(), openFiles(t)
	for i := range 100 {
		must(t, n.Set(context.Background(), []Lease{leases[0], leases[1+i%4]}))
		must(t, n.Set(context.Background(), leases[:1]))
	}
	must(t, n.tidyUntil(context.Background()))
	if diff := cmp.Diff(before, l.state()); diff != "" {
		t.Errorf("after a hundred lives there is more (+) or less (-):\n%s", diff)
	}
	if now := openFiles(t); now > files {
		t.Errorf("open files were %d, are %d", files, now)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(files)
}

func BenchmarkOneMoreVM(b *testing.B) {
	if os.Getenv(inside) == "" {
		b.Fatal("run it in a network namespace of its own, with " + inside + "=1: unshare -n")
	}
	cfg := testConfig
	cfg.State, cfg.Ready = b.TempDir(), 4
	n := New(cfg, testLog(b))
	defer n.Close(context.Background(), nil)
	var leases []Lease
	for range 21 {
		l, err := cfg.Pick(leases)
		if err != nil {
			b.Fatal(err)
		}
		leases = append(leases, l)
	}
	for b.Loop() {
		b.StopTimer()
		if err := errors.Join(n.Set(context.Background(), leases[:20]), n.tidyUntil(context.Background())); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := n.Set(context.Background(), leases); err != nil {
			b.Fatal(err)
		}
	}
}
