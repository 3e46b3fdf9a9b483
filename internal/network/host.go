package network

import (
	"context"
	"net/netip"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// host is what Network changes: the kernel of this network namespace, the
// programs beside it, and a file to remember by. [linux] is the real one; a
// test has one that prints itself.
//
// Every method that makes or removes something takes it as done when it is so
// already.
type host interface {
	// links gives all network links.
	links() ([]link, error)
	// clash says what of the host already uses a part of the range; "" if
	// nothing does.
	clash(c Config) (string, error)
	circumstances() (circumstances, error)

	makeBridge(c Config) error
	makeTap(c Config, slot int) error
	removeLink(name string) error
	// pin fixes which MAC is behind the lease's tap, and which is its address's.
	pin(c Config, l Lease) error
	unpin(c Config, l Lease) error

	replaceRules(tables []ruleset.Table) error
	updateRules(t ruleset.Table, s *ruleset.Set, remove, add []ruleset.Element) error
	removeRules(tables []ruleset.Table) error
	// trimConnections takes away what guests have beyond so many connections, and
	// all that is left of guests that do not run.
	trimConnections(c Config, attached []Lease, most uint32)
	watchRules() (watch, error)
	openChains(c Config) error
	closeChains(c Config) error
	openFirewalld(ctx context.Context, c Config)
	closeFirewalld(ctx context.Context, c Config)

	allowForwarding(c Config) error
	restoreForwarding(c Config) error

	resolve(c Config, serves func(netip.Addr) bool) (resolver, error)
}

// watch tells when another program has changed rules.
type watch interface {
	Changed() <-chan struct{}
	Take() ruleset.Change
	Close() error
}

// resolver is the forwarder of names while it runs.
type resolver interface{ Close() error }

// link is a network link of the host.
type link struct {
	name  string
	kind  string // "bridge", "tuntap", ...
	alias string
	mac   string
	owner int  // the user that may open it, if it is a tap
	held  bool // a program has it open, if it is a tap
}

// alias marks the links that are ours, for people and for the next daemon.
const alias = "banger"

// isOurs says whether a bridge of our name is one that banger made. The alias
// is set after the bridge is made; in between, its MAC tells.
func (c Config) isOurs(l link) bool {
	return l.kind == "bridge" && (l.alias == alias || l.mac == macOf(c.Addr.Addr()).String())
}
