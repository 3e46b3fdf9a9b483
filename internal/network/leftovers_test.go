//go:build hosttest

package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/network/ruleset"
)

func TestAnAbandonedBridgeIsFoundAndRemoved(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	ctx := context.Background()
	old := *l
	old.cfg.Bridge, old.cfg.Addr, old.cfg.Ready = "old0", netip.MustParsePrefix("172.20.0.1/24"), 2
	first := New(old.cfg, l.log)
	must(t, first.Set(ctx, old.leases(1)))
	l.finds("network leftovers", api.LevelOK, "none") // its daemon lives
	// The daemon ends without tidying up, as kill -9 leaves it.
	first.stopKeeper()
	must(t, first.tidyAll())
	l.finds("network leftovers", api.LevelWarning, "old0")

	l.mends("removed what was left of bridge old0")
	l.nothingOf("old0")
	l.finds("network leftovers", api.LevelOK, "none")
	l.forwardingIs("0") // as it was before the old bridge
	l.mends()
}

func TestABridgeWithAVMIsNotAbandoned(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	old := *l
	old.cfg.Bridge, old.cfg.Addr = "old0", netip.MustParsePrefix("172.20.0.1/24")
	first := New(old.cfg, l.log)
	guest := old.guests(first, 1)[0]
	first.stopKeeper() // the daemon is dead, the VM runs on
	l.finds("network leftovers", api.LevelOK, "none")
	l.mends()
	guest.stop()
	l.finds("network leftovers", api.LevelWarning, "old0")
}

func TestRulesWithoutABridgeAreRemoved(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	gone := Config{Bridge: "gone0", Addr: netip.MustParsePrefix("172.21.0.1/24")}
	must(t, new(ruleset.Kernel).Replace(gone.tables(nil, circumstances{})))
	l.finds("network leftovers", api.LevelWarning, "gone0")
	l.mends("removed what was left of bridge gone0")
	l.finds("network leftovers", api.LevelOK, "none")
}

func TestForwardingIsSwitchedOnAgain(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.mends() // never switched on by banger: not its to switch
	l.forwardingIs("0")
	n := l.network()
	must(t, n.Set(context.Background(), l.leases(1)))
	must(t, writeForwarding("0"))
	l.mends("switched net.ipv4.ip_forward on again")
	l.forwardingIs("1")
	l.mends()
}

// mends runs Mend, which must do these things, by the beginnings of their
// sentences, and no other.
func (l *lab) mends(want ...string) {
	l.t.Helper()
	done, err := Mend(context.Background(), l.cfg, l.log)
	must(l.t, err)
	if !slices.EqualFunc(done, want, strings.HasPrefix) {
		l.t.Errorf("Mend did %q, want %q", done, want)
	}
}

// nothingOf checks that no link begins with the name.
func (l *lab) nothingOf(name string) {
	l.t.Helper()
	links, err := newLinux(l.log).links()
	must(l.t, err)
	for _, link := range links {
		if strings.HasPrefix(link.name, name) {
			l.t.Errorf("link %s is left", link.name)
		}
	}
}
