package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/network/ruleset"
)

// Network holds one bridge and what hangs on it. Its methods may be called
// from several goroutines.
type Network struct {
	cfg  Config
	log  *slog.Logger
	host host
	// background runs the keeper; a test of each step has it run by hand.
	background func(*sync.WaitGroup, func())

	mu       sync.Mutex
	closed   bool
	up       bool             // bridge, rules and resolver are there
	attached map[string]Lease // by tap, as they are in the rules
	used     map[string]bool  // taps that a VM had: never given to another
	rulesFor circumstances    // what the rules know of the host
	keeper   *keeper

	addrMu sync.RWMutex // apart from mu, for every name query asks
	addrs  map[netip.Addr]bool
}

// New takes over a network: it touches nothing until the first [Network.Set].
func New(cfg Config, log *slog.Logger) *Network { return newOn(newLinux(log), cfg, log) }

func newOn(h host, cfg Config, log *slog.Logger) *Network {
	return &Network{
		cfg: cfg, log: log, host: h, background: (*sync.WaitGroup).Go,
		attached: map[string]Lease{}, used: map[string]bool{},
	}
}

var errClosed = errors.New("the network is closed")

// Set makes bridge, taps, rules and resolver be what the attached VMs need, no
// more and no less. The same set twice changes nothing. The first Set of a
// process adopts what an earlier one left, and does not interrupt the traffic
// of VMs in attached; what has no owner is removed. Nothing is made before the
// first VM needs it; from then on bridge and ready taps stay until
// [Network.Close].
//
// A bridge name or a range that something else on the host uses is an
// [api.Error] of kind host.
func (n *Network) Set(ctx context.Context, attached []Lease) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := n.check(attached); err != nil {
		return err
	}
	links, err := n.ours()
	if err != nil {
		return n.harmless(err, attached)
	}
	_, bridged := links[n.cfg.Bridge]
	n.up = n.up && bridged
	if len(attached) == 0 && !n.up {
		return n.remove(ctx, links)
	}
	if !n.up {
		return n.raiseOrNothing(ctx, attached, links)
	}
	err = n.change(attached, links)
	n.up = err == nil // after a failure the next Set asserts everything anew
	return err
}

// Close ends the network. With VMs to keep, what they need stays in the
// kernel (only the resolver goes with the process); with none everything is
// removed and every sysctl is as it was.
func (n *Network) Close(ctx context.Context, keep []Lease) error {
	n.stopKeeper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	links, err := n.ours()
	if err != nil {
		return n.harmless(err, keep)
	}
	if len(keep) == 0 {
		return n.remove(ctx, links)
	}
	return n.leave(keep, links)
}

// errForeign is wrapped where the bridge is somebody else's.
var errForeign = errors.New("the bridge is not banger's")

// harmless lets pass that the bridge is somebody else's while no VM needs one:
// then there is nothing of ours on it.
func (n *Network) harmless(err error, attached []Lease) error {
	if errors.Is(err, errForeign) && len(attached) == 0 && !n.up {
		return nil
	}
	return err
}

// leave keeps in the kernel what the VMs need and nothing more.
func (n *Network) leave(keep []Lease, links map[string]link) error {
	var err error
	if n.up {
		err = n.change(keep, links)
	} else {
		n.remember(keep)
	}
	n.cfg.Ready = 0
	return errors.Join(err, n.tidyAll())
}

func (n *Network) check(attached []Lease) error {
	if err := n.cfg.Check(); err != nil {
		return err
	}
	for _, l := range attached {
		if !n.cfg.Fits(l) {
			return &api.Error{
				Kind:    api.KindHost,
				Message: fmt.Sprintf("a running VM has the address %v, which is not one of the configured network", l.Addr),
				Hint: fmt.Sprintf("stop the running VMs with `banger vm stop`, or set bridge_name, bridge_ip and cidr back to what they were; now they are %s, %v and %v",
					n.cfg.Bridge, n.cfg.Addr.Addr(), n.cfg.Addr.Masked()),
			}
		}
	}
	return nil
}

// ours gives the links of this network by name, and refuses a bridge that is
// somebody else's.
func (n *Network) ours() (map[string]link, error) {
	all, err := n.host.links()
	if err != nil {
		return nil, err
	}
	ours := map[string]link{}
	for _, l := range all {
		if l.name == n.cfg.Bridge && !n.cfg.isOurs(l) {
			return nil, foreign{&api.Error{
				Kind:    api.KindHost,
				Message: fmt.Sprintf("the name %s is taken by an interface that is not banger's", l.name),
				Hint:    fmt.Sprintf("set bridge_name in config.toml to another name, or remove it with `ip link delete %s` if nobody needs it", l.name),
			}}
		}
		if _, isTap := n.cfg.slotOf(l.name); l.name == n.cfg.Bridge || isTap && l.kind == "tuntap" {
			ours[l.name] = l
		}
	}
	return ours, nil
}

// foreign is an api.Error that also wraps errForeign.
type foreign struct{ said *api.Error }

func (e foreign) Error() string { return e.said.Error() }

func (e foreign) Unwrap() []error { return []error{e.said, errForeign} }

// raiseOrNothing leaves nothing behind when it fails, unless there was
// something before.
func (n *Network) raiseOrNothing(ctx context.Context, attached []Lease, links map[string]link) error {
	err := n.raise(ctx, attached, links)
	if _, before := links[n.cfg.Bridge]; err == nil || before {
		return err
	}
	made, listErr := n.ours()
	if listErr != nil {
		return errors.Join(err, listErr)
	}
	return errors.Join(err, n.remove(context.WithoutCancel(ctx), made))
}

// raise makes everything, or takes over what an earlier process left.
func (n *Network) raise(ctx context.Context, attached []Lease, links map[string]link) error {
	if _, there := links[n.cfg.Bridge]; !there {
		if err := n.checkRange(); err != nil {
			return err
		}
	}
	if err := n.host.makeBridge(n.cfg); err != nil {
		return err
	}
	if err := n.startKeeper(); err != nil {
		return err
	}
	if err := n.replaceRules(attached); err != nil {
		return err
	}
	if err := n.connect(attached, links); err != nil {
		return err
	}
	if err := n.host.openChains(n.cfg); err != nil {
		return err
	}
	n.host.openFirewalld(ctx, n.cfg)
	if err := n.host.allowForwarding(n.cfg); err != nil {
		return err
	}
	n.up = true
	n.wakeKeeper()
	return nil
}

func (n *Network) checkRange() error {
	user, err := n.host.clash(n.cfg)
	if err != nil || user == "" {
		return err
	}
	return &api.Error{
		Kind:    api.KindHost,
		Message: fmt.Sprintf("the range %v for VMs is in use on this host by %s", n.cfg.Addr.Masked(), user),
		Hint:    "set cidr and bridge_ip in config.toml to a private range that this host does not use, such as 172.31.255.0/24 and 172.31.255.1",
	}
}

// change brings what is there from the attached before to those now: a few
// messages for each that came or went. Forwarding and the host's own way out are
// looked at anew, for others change them.
func (n *Network) change(attached []Lease, links map[string]link) error {
	came, went := n.difference(attached)
	if err := n.host.allowForwarding(n.cfg); err != nil {
		return err
	}
	if err := n.refreshRules(); err != nil {
		return err
	}
	if len(came) == 0 && len(went) == 0 {
		return nil
	}
	if err := n.updateGuests(came, went); err != nil {
		return err
	}
	for _, l := range went {
		n.used[l.Tap] = true
		if err := n.host.unpin(n.cfg, l); err != nil {
			return err
		}
	}
	err := n.connect(came, links)
	n.wakeKeeper()
	return err
}

func (n *Network) difference(attached []Lease) (came, went []Lease) {
	now := map[string]bool{}
	for _, l := range attached {
		now[l.Tap] = true
		if _, before := n.attached[l.Tap]; !before {
			came = append(came, l)
		}
	}
	for _, tap := range slices.Sorted(maps.Keys(n.attached)) {
		if !now[tap] {
			went = append(went, n.attached[tap])
		}
	}
	return came, went
}

// connect gives each lease its tap, a fresh one unless a VMM already has it
// open, and pins its addresses to it.
func (n *Network) connect(leases []Lease, links map[string]link) error {
	for _, l := range leases {
		if err := n.readyTap(l, links); err != nil {
			return err
		}
		if err := n.host.pin(n.cfg, l); err != nil {
			return err
		}
	}
	return nil
}

func (n *Network) readyTap(l Lease, links map[string]link) error {
	there, ok := links[l.Tap]
	if ok && (n.used[l.Tap] || there.owner != l.UID) {
		if err := n.host.removeLink(l.Tap); err != nil {
			return err
		}
		ok = false
	}
	delete(n.used, l.Tap)
	if ok && n.up {
		return nil // from the ready ones
	}
	return n.host.makeTap(n.cfg, l.Slot)
}

// replaceRules writes both tables whole.
func (n *Network) replaceRules(attached []Lease) error {
	now, err := n.host.circumstances()
	if err != nil {
		return err
	}
	if err := n.host.replaceRules(n.cfg.tables(attached, now)); err != nil {
		return err
	}
	n.host.trimConnections(n.cfg, attached, now.mostConnections(len(attached)))
	n.rulesFor = now
	n.remember(attached)
	return nil
}

// updateGuests changes only the set of guests. Where someone has taken our
// table away, or each guest's share of the host's connections becomes another,
// all of it is written again.
func (n *Network) updateGuests(came, went []Lease) error {
	next := maps.Clone(n.attached)
	for _, l := range went {
		delete(next, l.Tap)
	}
	for _, l := range came {
		next[l.Tap] = l
	}
	leases := sorted(next)
	if n.rulesFor.mostConnections(len(leases)) != n.rulesFor.mostConnections(len(n.attached)) {
		return n.replaceRules(leases)
	}
	set := guestSet(nil)
	err := n.host.updateRules(n.cfg.frames(nil), set, guestSet(went).Elements, guestSet(came).Elements)
	if ruleset.Missing(err) {
		return n.replaceRules(leases)
	}
	if err == nil {
		n.remember(leases)
	}
	return err
}

// refreshRules follows a host whose own way out has moved to another bridge, or
// whose table of connections has another size.
func (n *Network) refreshRules() error {
	now, err := n.host.circumstances()
	if err != nil || now.equal(n.rulesFor) {
		return err
	}
	return n.replaceRules(sorted(n.attached))
}

func (n *Network) remember(attached []Lease) {
	byTap := map[string]Lease{}
	addrs := map[netip.Addr]bool{n.cfg.Addr.Addr(): true}
	for _, l := range attached {
		byTap[l.Tap] = l
		addrs[l.Addr.Addr()] = true
	}
	n.attached = byTap
	n.addrMu.Lock()
	n.addrs = addrs
	n.addrMu.Unlock()
}

// serves says whether the resolver answers the address: the host's own on the
// bridge, and those of attached VMs.
func (n *Network) serves(addr netip.Addr) bool {
	n.addrMu.RLock()
	defer n.addrMu.RUnlock()
	return n.addrs[addr]
}

// remove takes everything away, tries every step, and joins the errors. The
// rules go last, so that nothing is open in between.
func (n *Network) remove(ctx context.Context, links map[string]link) error {
	n.up = false
	n.remember(nil)
	clear(n.used)
	n.host.closeFirewalld(ctx, n.cfg)
	errs := []error{n.host.closeChains(n.cfg)}
	for _, name := range slices.Sorted(maps.Keys(links)) {
		if name != n.cfg.Bridge {
			errs = append(errs, n.host.removeLink(name))
		}
	}
	if _, there := links[n.cfg.Bridge]; there {
		errs = append(errs, n.host.removeLink(n.cfg.Bridge))
	}
	errs = append(errs, n.host.removeRules(n.cfg.tables(nil, circumstances{})), n.host.restoreForwarding(n.cfg))
	return errors.Join(errs...)
}

func sorted(byTap map[string]Lease) []Lease {
	return slices.SortedFunc(maps.Values(byTap), func(a, b Lease) int { return a.Slot - b.Slot })
}
