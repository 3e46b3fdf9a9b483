//go:build hosttest

package network

import (
	"net/netip"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

func TestGuestsReachTheInternetAndTheResolver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	for _, g := range l.guests(l.network(), 2) {
		g.works()
	}
}

func TestHostReachesGuests(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	for _, g := range l.guests(l.network(), 2) {
		g.in(g.ns, func() { g.serveTCP(":80") })
		said, err := l.dial(l.host, g.Addr.Addr(), 80, soon)
		if err != nil || said != l.cfg.Addr.Addr().String() {
			t.Errorf("the host calls %v: %q, %v", g.Addr, said, err)
		}
	}
}

// TestGuestsMayNot tries what guests may not do, and then takes the one rule
// away that forbids it and sees it happen.
func TestGuestsMayNot(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.serveTCP(":8080") // on every address of the host
	n := l.network()
	guests := l.guests(n, 2)
	a, b := guests[0], guests[1]
	b.in(b.ns, func() { b.serveTCP(":80") })
	l.route(l.internet, l.cfg.Addr.Masked(), hostOutside)
	l.route(a.ns, netip.PrefixFrom(b.Addr.Addr(), 32), a.Gateway)
	l.route(b.ns, netip.PrefixFrom(a.Addr.Addr(), 32), b.Gateway)
	neighbour := l.bridgeOnTheHost("docker0")

	dials := []struct {
		what string
		from netns.NsHandle
		to   netip.Addr
		port uint16
		rule string
	}{
		{"a service of the host at its outer address", a.ns, hostOutside, 8080, "no other service of the host"},
		{"a service of the host at the gateway", a.ns, a.Gateway, 8080, "no other service of the host"},
		{"the metadata service", a.ns, metadata, 80, "no metadata"},
		{"another guest through the host", a.ns, b.Addr.Addr(), 80, "guests are called by their host only"},
		{"a guest from outside", l.internet, b.Addr.Addr(), 80, "guests are called by their host only"},
		{"a container on this host", a.ns, neighbour, 80, "no network that lives on this host"},
	}
	for _, try := range dials {
		if said, err := l.dial(try.from, try.to, try.port, shortly); err == nil {
			t.Errorf("%s was reached (%q)", try.what, said)
		}
		put := l.take(n, try.rule)
		if _, err := l.dial(try.from, try.to, try.port, soon); err != nil {
			t.Errorf("%s cannot be reached without the rule %q either, so the test shows nothing: %v", try.what, try.rule, err)
		}
		put()
	}
}

// bridgeOnTheHost makes a bridge as Docker's, and a server behind it.
func (l *lab) bridgeOnTheHost(name string) netip.Addr {
	l.t.Helper()
	server := netip.MustParseAddr("10.9.0.2")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(l.t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	addAddr(l.t, name, netip.MustParsePrefix("10.9.0.1/24"))
	setUp(l.t, name)
	container := l.namespace()
	port := netlink.NewLinkAttrs()
	port.Name, port.MasterIndex = "veth9", linkNamed(l.t, name).Attrs().Index
	must(l.t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: port, PeerName: "eth0", PeerNamespace: netlink.NsFd(container)}))
	setUp(l.t, "veth9")
	l.in(container, func() {
		addAddr(l.t, "eth0", netip.PrefixFrom(server, 24))
		setUp(l.t, "eth0")
		l.serveTCP(":80")
	})
	l.route(container, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParseAddr("10.9.0.1"))
	return server
}

// take takes the rules with the comment out of our tables, as the network itself
// would, for else it puts them back. The answer puts all back.
func (l *lab) take(n *Network, comment string) (put func()) {
	l.t.Helper()
	rules := l.rulesSaying(comment)
	if len(rules) == 0 {
		l.t.Fatalf("there is no rule %q", comment)
	}
	must(l.t, n.host.(*linux).rules.Change(func(c *nftables.Conn) error {
		for _, r := range rules {
			must(l.t, c.DelRule(r))
		}
		return nil
	}))
	return func() {
		l.t.Helper()
		n.mu.Lock()
		defer n.mu.Unlock()
		must(l.t, n.replaceRules(sorted(n.attached)))
	}
}

func (l *lab) rulesSaying(comment string) []*nftables.Rule {
	l.t.Helper()
	var all []*nftables.Rule
	for _, table := range l.cfg.tables(nil, circumstances{}) {
		found, err := ruleset.Find(table, comment)
		must(l.t, err)
		all = append(all, found...)
	}
	return all
}
