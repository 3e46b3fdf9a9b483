package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// Ranges that no guest may speak to: link-local, where clouds keep metadata and
// credentials, and multicast.
var (
	linkLocal = netip.MustParsePrefix("169.254.0.0/16")
	multicast = netip.MustParsePrefix("224.0.0.0/4")
)

const dnsPort = 53

// circumstances are what of the host the rules depend on.
type circumstances struct {
	uplinks     []string // the bridges by which the host itself reaches other networks
	connections int      // how many its table of connections holds; 0 where it is not there yet
}

func (a circumstances) equal(b circumstances) bool {
	return slices.Equal(a.uplinks, b.uplinks) && a.connections == b.connections
}

// enoughConnections is how many connections a guest may have in a host's table
// of any size: no good one needs as many.
const enoughConnections = 1 << 14

// mostConnections is how many connections each of so many guests may have. New
// rules count from nothing, so each may get as many once more, and all of them
// together half of the table: the other half is the host's own.
//
// The number of guests counts as the next power of two, for the rules are
// written anew when it changes.
func (a circumstances) mostConnections(guests int) uint32 {
	if a.connections == 0 {
		return enoughConnections
	}
	shares := 1
	for shares < guests {
		shares *= 2
	}
	return uint32(max(1, min(enoughConnections, a.connections/4/shares)))
}

// tableName is that of both tables of this bridge.
func (c Config) tableName() string { return "banger-" + c.Bridge }

// tables are the wanted rules. What guests may do is decided before any
// address is rewritten (another program's port forwards would hide an address
// of the host), what may reach them where packets are forwarded, and who they
// may claim to be where frames enter the bridge.
//
// Each thing that is forbidden is forbidden by one rule only, so that a test
// can take that rule away and see the thing happen. (Between guests there are
// two ways: through the host, which a rule forbids, and across the bridge,
// which the ports' isolation does.)
func (c Config) tables(attached []Lease, host circumstances) []ruleset.Table {
	return []ruleset.Table{c.packets(host.uplinks, host.mostConnections(len(attached))), c.frames(attached)}
}

// tooMany is the comment of the rule that some kernels can't have.
const tooMany = "more connections than a guest may have"

func (c Config) packets(uplinks []string, most uint32) ruleset.Table {
	ups, counted := ruleset.Links("uplinks", uplinks), ruleset.Sources("connections")
	return ruleset.Table{
		Family: nftables.TableFamilyINet,
		Name:   c.tableName(),
		Sets:   []*ruleset.Set{ups, counted},
		Chains: []ruleset.Chain{c.fromGuests(counted, most), c.forwarded(ups), c.nat()},
	}
}

func (c Config) fromGuests(counted *ruleset.Set, most uint32) ruleset.Chain {
	self := netip.PrefixFrom(c.Addr.Addr(), 32)
	return ruleset.Chain{
		Name: "from_guests", Type: nftables.ChainTypeFilter,
		Hook: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityMangle, At: "hook prerouting priority mangle",
		Rules: []ruleset.Rule{
			ruleset.NewRule("not from a guest", ruleset.InFromOther(c.Bridge), ruleset.Accept()),
			ruleset.NewRule("", ruleset.Replies(), ruleset.Accept()),
			ruleset.NewRule("would leave with a guest's address", ruleset.Invalid(), ruleset.Drop()),
			ruleset.NewRule(tooMany, ruleset.MoreConnections(counted, most), ruleset.Counted(), ruleset.Drop()),
			ruleset.NewRule("resolver", ruleset.To(self), ruleset.UDPTo(dnsPort), ruleset.Accept()),
			ruleset.NewRule("resolver", ruleset.To(self), ruleset.TCPTo(dnsPort), ruleset.Accept()),
			ruleset.NewRule("gateway answers pings", ruleset.To(self), ruleset.Ping(), ruleset.Accept()),
			ruleset.NewRule("no other service of the host", ruleset.ToLocal(), ruleset.Drop()),
			ruleset.NewRule("no broadcast", ruleset.ToBroadcast(), ruleset.Drop()),
			ruleset.NewRule("no metadata", ruleset.To(linkLocal), ruleset.Drop()),
			ruleset.NewRule("no multicast", ruleset.To(multicast), ruleset.Drop()),
		},
	}
}

func (c Config) forwarded(uplinks *ruleset.Set) ruleset.Chain {
	return ruleset.Chain{
		Name: "forwarded", Type: nftables.ChainTypeFilter,
		Hook: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, At: "hook forward priority filter",
		Rules: []ruleset.Rule{
			ruleset.NewRule("guests' replies, also to what lives on this host", ruleset.Replies(), ruleset.Accept()),
			ruleset.NewRule("no network that lives on this host", ruleset.InFrom(c.Bridge), ruleset.OutToOther(c.Bridge), ruleset.OutToKind("bridge"), ruleset.OutToNoneOf(uplinks), ruleset.Drop()),
			ruleset.NewRule("guests are called by their host only", ruleset.OutTo(c.Bridge), ruleset.Drop()),
		},
	}
}

func (c Config) nat() ruleset.Chain {
	return ruleset.Chain{
		Name: "nat", Type: nftables.ChainTypeNAT,
		Hook: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource, At: "hook postrouting priority srcnat",
		Rules: []ruleset.Rule{
			ruleset.NewRule("", ruleset.From(c.Addr.Masked()), ruleset.OutToOther(c.Bridge), ruleset.Masquerade()),
		},
	}
}

func (c Config) frames(attached []Lease) ruleset.Table {
	guests := guestSet(attached)
	return ruleset.Table{
		Family: nftables.TableFamilyBridge,
		Name:   c.tableName(),
		Sets:   []*ruleset.Set{guests},
		Chains: []ruleset.Chain{{
			Name: "from_guests", Type: nftables.ChainTypeFilter,
			Hook: nftables.ChainHookPrerouting, Priority: bridgeFilter, At: "hook prerouting priority filter",
			Rules: []ruleset.Rule{
				ruleset.NewRule("not from a guest", ruleset.InFromOtherThan(c.tapPrefix()), ruleset.Accept()),
				ruleset.NewRule("its own addresses", ruleset.FrameOf(guests), ruleset.Accept()),
				ruleset.NewRule("its own addresses, to the gateway", ruleset.ARPOf(guests, c.Addr.Addr()), ruleset.Accept()),
				ruleset.NewRule("nothing else, IPv6 included", ruleset.Drop()),
			},
		}},
	}
}

// bridgeFilter is what nft calls priority filter in a bridge table: NF_BR_PRI_FILTER_BRIDGED.
var bridgeFilter = nftables.ChainPriorityRef(-200)

func guestSet(attached []Lease) *ruleset.Set {
	var guests []ruleset.Element
	for _, l := range attached {
		guests = append(guests, l.element())
	}
	return ruleset.Guests("guests", guests)
}

// uncounted gives the tables without the rule that counts connections.
func uncounted(tables []ruleset.Table) []ruleset.Table {
	tables = slices.Clone(tables)
	for i, t := range tables {
		tables[i].Chains = nil
		for _, c := range t.Chains {
			tables[i].Chains = append(tables[i].Chains, c.Without(tooMany))
		}
	}
	return tables
}

// element is the lease's own in the set of guests.
func (l Lease) element() ruleset.Element {
	return ruleset.Guest(l.Tap, macOf(l.Addr.Addr()), l.Addr.Addr())
}
