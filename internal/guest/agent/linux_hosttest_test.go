//go:build hosttest

package agent_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// inNamespaces runs the rest of the test on a thread with a network, a name and
// a mount namespace of its own, which end with the thread.
func inNamespaces(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// TestInterface configures a real interface, twice the same and then anew.
func TestInterface(t *testing.T) {
	inNamespaces(t)
	la := netlink.NewLinkAttrs()
	la.Name = "eth0"
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: "peer"}); err != nil {
		t.Fatal(err)
	}
	addresses := func(texts ...string) (all []netip.Prefix) {
		for _, text := range texts {
			all = append(all, netip.MustParsePrefix(text))
		}
		return all
	}
	route := func(to, via string) proto.Route {
		return proto.Route{To: netip.MustParsePrefix(to), Via: netip.MustParseAddr(via)}
	}
	for _, step := range []struct {
		addresses []netip.Prefix
		routes    []proto.Route
		want      []string
	}{
		{addresses("172.16.0.2/24"), []proto.Route{route("0.0.0.0/0", "172.16.0.1")}, []string{"172.16.0.2/24", "0.0.0.0/0 172.16.0.1"}},
		{addresses("172.16.0.2/24"), []proto.Route{route("0.0.0.0/0", "172.16.0.1")}, []string{"172.16.0.2/24", "0.0.0.0/0 172.16.0.1"}},
		{addresses("10.9.0.7/16", "fd00::7/64"), []proto.Route{route("0.0.0.0/0", "10.9.0.1"), route("::/0", "fd00::1"), route("10.20.0.0/16", "10.9.0.2")},
			[]string{"10.9.0.7/16", "fd00::7/64", "0.0.0.0/0 10.9.0.1", "10.20.0.0/16 10.9.0.2", "::/0 fd00::1"}},
	} {
		if err := (agent.Linux{}).SetInterface("eth0", step.addresses, step.routes); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, interfaceState(t)); diff != "" {
			t.Fatal(diff)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil || lo.Attrs().Flags&1 == 0 {
		t.Fatalf("the loopback interface is down: %v", err)
	}
	if err := (agent.Linux{}).SetInterface("eth7", addresses("10.0.0.1/8"), nil); err == nil {
		t.Fatal("an interface that is not there was configured")
	}
	// A guest without a network has nothing to configure.
	if err := (agent.Linux{}).SetInterface("eth7", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// interfaceState is what eth0 has: addresses, then routes through a gateway.
func interfaceState(t *testing.T) []string {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	var state []string
	for _, a := range addresses {
		if !a.IP.IsLinkLocalUnicast() {
			state = append(state, a.IPNet.String())
		}
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			state = append(state, r.Dst.String()+" "+r.Gw.String())
		}
	}
	return state
}

func TestHostnameAndEntropy(t *testing.T) {
	inNamespaces(t)
	if err := (agent.Linux{}).SetHostname("box"); err != nil {
		t.Fatal(err)
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil || unix.ByteSliceToString(u.Nodename[:]) != "box" {
		t.Fatalf("%v", err)
	}
	if err := (agent.Linux{}).AddEntropy(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
}

// TestCommandGroups runs commands in a real cgroup tree: each has a group of
// its own while it lives, and what it left behind keeps its group.
func TestCommandGroups(t *testing.T) {
	mount := t.TempDir()
	if err := unix.Mount("cgroup2", mount, "cgroup2", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(mount, unix.MNT_DETACH) })
	dir := filepath.Join(mount, "banger-test-"+filepath.Base(filepath.Dir(mount)))
	t.Cleanup(func() { os.Remove(dir) })
	g := startWith(t, proto.InitNone, agent.Options{Cgroups: dir})
	got := g.run(t, shell("cat /proc/self/cgroup"), "")
	if !strings.Contains(got.stdout, "/"+filepath.Base(dir)+"/1\n") {
		t.Fatalf("%+v", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "1")); !os.IsNotExist(err) {
		t.Fatalf("the group of a command that is over: %v", err)
	}
	left := g.live(t, shell("sleep 1000 & echo started"))
	left.until(t, "started")
	if got := left.end(); got.status != 0 {
		t.Fatalf("%+v", got)
	}
	pids := strings.Fields(read(t, filepath.Join(dir, "2", "cgroup.procs")))
	if len(pids) != 1 {
		t.Fatalf("left behind: %v", pids)
	}
	if err := os.WriteFile(filepath.Join(dir, "2", "cgroup.kill"), []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	for exists(filepath.Join(dir, "2")) {
		g.run(t, shell("exit 0"), "") // each new command sweeps groups that became empty
	}
}

func exists(path string) bool { return unix.Access(path, unix.F_OK) == nil }
