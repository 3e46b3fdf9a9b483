package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// printedHost is a host that tells what was done to it, and has the links that
// come of it. Its zero value is an empty one.
type printedHost struct {
	done    []string
	present []link
	taken   string // what uses the range
	fails   string // the deed that fails, once
	noTable bool   // someone has deleted our table
	forward bool   // packets are passed between links
	around  circumstances
}

var errNamed = errors.New("it fails, as the test asked")

func (h *printedHost) do(format string, args ...any) error {
	deed := fmt.Sprintf(format, args...)
	if h.fails != "" && strings.HasPrefix(deed, h.fails) {
		h.fails = ""
		h.done = append(h.done, deed+": fails")
		return errNamed
	}
	h.done = append(h.done, deed)
	return nil
}

// told gives what was done since the last time.
func (h *printedHost) told() string {
	text := strings.Join(h.done, "\n")
	h.done = nil
	return text
}

func (h *printedHost) put(l link) {
	h.drop(l.name)
	h.present = append(h.present, l)
}

func (h *printedHost) drop(name string) {
	h.present = slices.DeleteFunc(h.present, func(l link) bool { return l.name == name })
}

func (h *printedHost) links() ([]link, error)       { return h.present, nil }
func (h *printedHost) clash(Config) (string, error) { return h.taken, nil }
func (h *printedHost) watchRules() (watch, error)   { return noChange{}, h.do("watch rules") }
func (h *printedHost) openChains(Config) error      { return h.do("open chains") }
func (h *printedHost) closeChains(Config) error     { return h.do("close chains") }

func (h *printedHost) openFirewalld(context.Context, Config)  { h.do("open firewalld") }
func (h *printedHost) closeFirewalld(context.Context, Config) { h.do("close firewalld") }

func (h *printedHost) allowForwarding(Config) error {
	if h.forward {
		return nil
	}
	h.forward = true
	return h.do("allow forwarding")
}

func (h *printedHost) restoreForwarding(Config) error {
	h.forward = false
	return h.do("restore forwarding")
}

func (h *printedHost) makeBridge(c Config) error {
	err := h.do("bridge %s %v", c.Bridge, c.Addr)
	if err == nil {
		h.put(link{name: c.Bridge, kind: "bridge", alias: alias})
	}
	return err
}

func (h *printedHost) makeTap(c Config, slot int) error {
	err := h.do("tap %s for %d", c.tap(slot), c.UIDBase+slot)
	if err == nil {
		h.put(link{name: c.tap(slot), kind: "tuntap", owner: c.UIDBase + slot})
	}
	return err
}

func (h *printedHost) removeLink(name string) error {
	err := h.do("remove %s", name)
	if err == nil {
		h.drop(name)
	}
	return err
}

func (h *printedHost) pin(_ Config, l Lease) error {
	return h.do("pin %v %s %s", l.Addr.Addr(), l.MAC, l.Tap)
}
func (h *printedHost) unpin(_ Config, l Lease) error { return h.do("unpin %v", l.Addr.Addr()) }

func (h *printedHost) replaceRules(tables []ruleset.Table) error {
	h.noTable = false
	for _, t := range tables {
		for _, s := range t.Sets {
			if s.Name == "guests" {
				return h.do("rules for %s", texts(s.Elements))
			}
		}
	}
	return nil
}

func (h *printedHost) updateRules(_ ruleset.Table, s *ruleset.Set, remove, add []ruleset.Element) error {
	if h.noTable {
		return unix.ENOENT
	}
	return h.do("%s - %s + %s", s.Name, texts(remove), texts(add))
}

func (h *printedHost) circumstances() (circumstances, error)   { return h.around, nil }
func (h *printedHost) trimConnections(Config, []Lease, uint32) {}

func (h *printedHost) removeRules([]ruleset.Table) error { return h.do("remove rules") }

func (h *printedHost) resolve(c Config, _ func(netip.Addr) bool) (resolver, error) {
	return noChange{}, h.do("resolve names on %v", c.Addr.Addr())
}

func texts(elements []ruleset.Element) string {
	var links []string
	for _, e := range elements {
		links = append(links, strings.Fields(e.Text)[0])
	}
	return "{" + strings.Join(links, " ") + "}"
}

// noChange is a watch and a resolver with nothing to tell.
type noChange struct{}

func (noChange) Changed() <-chan struct{} { return nil }
func (noChange) Take() ruleset.Change     { return ruleset.Change{} }
func (noChange) Close() error             { return nil }

// TestSet plays what happens to a network, one step after the other. The taps
// that are kept ready are seen to between the steps.
func TestSet(t *testing.T) {
	c := config("banger0", "172.16.0.1/24")
	ours := link{name: "banger0", kind: "bridge", alias: alias}
	tap := func(slot int, held bool) link {
		return link{name: c.tap(slot), kind: "tuntap", owner: c.UIDBase + slot, held: held}
	}
	raise := "bridge banger0 172.16.0.1/24\nwatch rules\nresolve names on 172.16.0.1\n"
	open := "open chains\nopen firewalld\nallow forwarding"
	gone := "remove rules\nrestore forwarding"
	for _, test := range []struct {
		name  string
		host  printedHost
		ready int
		steps []step
	}{
		{name: "no VM needs it", steps: []step{
			{set: nil, want: "close firewalld\nclose chains\n" + gone},
		}},
		{name: "a VM comes, one more, the first goes", steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{set: []int{0}, want: ""},
			{set: []int{0, 1}, want: "guests - {} + {\"banger0t1\"}\ntap banger0t1 for 720001\npin 172.16.0.3 06:00:ac:10:00:03 banger0t1"},
			{set: []int{1}, want: "guests - {\"banger0t0\"} + {}\nunpin 172.16.0.2\nremove banger0t0"},
			{closing: true, want: "close firewalld\nclose chains\nremove banger0t1\nremove banger0\n" + gone},
		}},
		{name: "a start needs no new tap", ready: 1, steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open + "\ntap banger0t1 for 720001"},
			{set: []int{0, 1}, want: "guests - {} + {\"banger0t1\"}\npin 172.16.0.3 06:00:ac:10:00:03 banger0t1\ntap banger0t2 for 720002"},
			{set: []int{0, 1, 3}, want: "guests - {} + {\"banger0t3\"}\ntap banger0t3 for 720003\npin 172.16.0.5 06:00:ac:10:00:05 banger0t3"},
			{set: nil, want: "guests - {\"banger0t0\" \"banger0t1\" \"banger0t3\"} + {}\nunpin 172.16.0.2\nunpin 172.16.0.3\nunpin 172.16.0.5\n" +
				"remove banger0t0\nremove banger0t1\nremove banger0t2\nremove banger0t3\ntap banger0t0 for 720000"},
		}},
		{name: "a daemon was killed: what runs is taken over, the rest goes",
			host: printedHost{present: []link{ours, tap(0, true), tap(1, false), tap(2, true), {name: "eth0", kind: "device"}, {name: "banger0tunnel", kind: "tuntap"}}},
			steps: []step{
				{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open + "\nremove banger0t1"},
				{keep: []int{0}, closing: true, want: ""},
			}},
		{name: "a daemon was killed, and nothing runs",
			host:  printedHost{present: []link{ours, tap(0, false)}},
			steps: []step{{set: nil, want: "close firewalld\nclose chains\nremove banger0t0\nremove banger0\n" + gone}}},
		{name: "a VM that goes and comes gets a fresh tap", steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{set: nil, busy: true, want: "guests - {\"banger0t0\"} + {}\nunpin 172.16.0.2"},
			{set: []int{0}, want: "guests - {} + {\"banger0t0\"}\nremove banger0t0\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0"},
		}},
		{name: "the range is taken", host: printedHost{taken: "the route to 172.16.0.0/12 by tun0"}, steps: []step{
			{set: []int{0}, fails: true, want: "close firewalld\nclose chains\n" + gone},
		}},
		{name: "the first VM's tap cannot be made", host: printedHost{fails: "tap banger0t0"}, steps: []step{
			{set: []int{0}, fails: true, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000: fails\nclose firewalld\nclose chains\nremove banger0\n" + gone},
			{set: []int{0}, want: "bridge banger0 172.16.0.1/24\nrules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
		}},
		{name: "the bridge is another's", host: printedHost{present: []link{{name: "banger0", kind: "bridge"}}}, steps: []step{
			{set: []int{0}, fails: true, want: ""},
			{set: nil, want: ""},
			{closing: true, want: ""},
		}},
		{name: "a tap cannot be made, and then it can", host: printedHost{fails: "tap banger0t1"}, steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{set: []int{0, 1}, fails: true, want: "guests - {} + {\"banger0t1\"}\ntap banger0t1 for 720001: fails"},
			{set: []int{0, 1}, want: "bridge banger0 172.16.0.1/24\nrules for {\"banger0t0\" \"banger0t1\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" +
				"tap banger0t1 for 720001\npin 172.16.0.3 06:00:ac:10:00:03 banger0t1\nopen chains\nopen firewalld"},
		}},
		{name: "someone deletes the table", steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{set: []int{0, 1}, noTable: true, want: "rules for {\"banger0t0\" \"banger0t1\"}\ntap banger0t1 for 720001\npin 172.16.0.3 06:00:ac:10:00:03 banger0t1"},
		}},
		{name: "someone switches forwarding off", steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{set: []int{0}, noForward: true, want: "allow forwarding"},
		}},
		{name: "nothing can be removed: every step is tried", host: printedHost{fails: "remove banger0t0"}, steps: []step{
			{set: []int{0}, want: raise + "rules for {\"banger0t0\"}\ntap banger0t0 for 720000\npin 172.16.0.2 06:00:ac:10:00:02 banger0t0\n" + open},
			{closing: true, fails: true, want: "close firewalld\nclose chains\nremove banger0t0: fails\nremove banger0\n" + gone},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := c
			c.Ready = test.ready
			host := test.host
			n := newOn(&host, c, slog.New(slog.DiscardHandler))
			n.background = func(*sync.WaitGroup, func()) {}
			for i, s := range test.steps {
				s.play(t, i, n, &host)
			}
		})
	}
}

// step is one thing that happens, and what the host is told to do for it.
type step struct {
	set, keep []int // slots
	closing   bool
	busy      bool // the background does not get its turn
	noTable   bool
	noForward bool
	fails     bool
	want      string
}

func (s step) play(t *testing.T, i int, n *Network, host *printedHost) {
	t.Helper()
	host.noTable = s.noTable
	host.forward = host.forward && !s.noForward
	var err error
	if s.closing {
		err = n.Close(context.Background(), leasesOf(n.cfg, s.keep))
	} else {
		err = n.Set(context.Background(), leasesOf(n.cfg, s.set))
	}
	if (err != nil) != s.fails {
		t.Errorf("step %d: error %v", i, err)
	}
	if err == nil && n.up && !s.busy {
		if err := n.tidyAll(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	if diff := cmp.Diff(s.want, host.told()); diff != "" {
		t.Errorf("step %d (want -, got +):\n%s", i, diff)
	}
}

func leasesOf(c Config, slots []int) []Lease {
	var leases []Lease
	for _, slot := range slots {
		leases = append(leases, c.lease(slot))
	}
	return leases
}

func TestSetRefusesALeaseOfAnotherNetwork(t *testing.T) {
	host := &printedHost{}
	n := newOn(host, config("banger0", "172.16.0.1/24"), slog.New(slog.DiscardHandler))
	err := n.Set(context.Background(), []Lease{config("banger0", "10.0.0.1/24").lease(3)})
	if err == nil || host.told() != "" {
		t.Errorf("error %v, and done was %q", err, host.told())
	}
}
