package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/network/dns"
	"github.com/banger-vm/banger/internal/network/firewall"
	"github.com/banger-vm/banger/internal/network/ruleset"
)

// linux is the real host.
type linux struct {
	log   *slog.Logger
	rules *ruleset.Kernel
	// counts says whether the rules that are there count guests' connections.
	counts bool
}

func newLinux(log *slog.Logger) *linux { return &linux{log: log, rules: &ruleset.Kernel{}} }

func (h *linux) links() ([]link, error) {
	found, err := consistent(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list network links: %w", err)
	}
	var links []link
	for _, f := range found {
		a := f.Attrs()
		l := link{name: a.Name, kind: f.Type(), alias: a.Alias, mac: a.HardwareAddr.String()}
		if tap, ok := f.(*netlink.Tuntap); ok {
			l.owner = int(tap.Owner)
			l.held = a.RawFlags&unix.IFF_LOWER_UP != 0
		}
		links = append(links, l)
	}
	return links, nil
}

func (h *linux) clash(c Config) (string, error) {
	user, err := usedBy(c.Addr.Masked(), c.Bridge)
	if err != nil {
		return "", fmt.Errorf("cannot see whether the host uses %v: %w", c.Addr.Masked(), err)
	}
	return user, nil
}

func (h *linux) circumstances() (circumstances, error) {
	uplinks, err := h.uplinks()
	if err != nil {
		return circumstances{}, err
	}
	return circumstances{uplinks, readConnections()}, nil
}

// connectionsFile says how many connections the kernel's table holds.
const connectionsFile = "/proc/sys/net/netfilter/nf_conntrack_max"

// readConnections gives 0 where the kernel has no such table yet: it makes one
// for the first rules.
func readConnections() int {
	text, err := os.ReadFile(connectionsFile)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return max(0, n)
}

func (h *linux) uplinks() ([]string, error) {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list network links: %w", err)
	}
	bridges := map[int]string{}
	for _, l := range links {
		if l.Type() == "bridge" {
			bridges[l.Attrs().Index] = l.Attrs().Name
		}
	}
	if len(bridges) <= 1 {
		return nil, nil // ours alone: the host's routes need not be read
	}
	routes, err := consistent(allRoutes)
	if err != nil {
		return nil, fmt.Errorf("cannot list routes: %w", err)
	}
	return gateways(routes, bridges), nil
}

// gateways gives the bridges that have a gateway behind them.
func gateways(routes []netlink.Route, bridges map[int]string) []string {
	var names []string
	for _, r := range routes {
		if r.Gw != nil {
			names = append(names, bridges[r.LinkIndex])
		}
		for _, hop := range r.MultiPath {
			names = append(names, bridges[hop.LinkIndex])
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return slices.DeleteFunc(names, func(name string) bool { return name == "" })
}

// makeBridge makes it with a MAC of its own, for else it would take that of its
// lowest tap, and change it as taps come and go.
func (h *linux) makeBridge(c Config) error {
	if err := addBridge(c); err != nil {
		return fmt.Errorf("cannot make bridge %s: %w", c.Bridge, mayNot(err))
	}
	return nil
}

func addBridge(c Config) error {
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = c.Bridge, macOf(c.Addr.Addr())
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	made, err := netlink.LinkByName(c.Bridge)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetAlias(made, alias); err != nil {
		return err
	}
	if err := disableIPv6(c.Bridge); err != nil {
		return err
	}
	if err := setAddress(made, c.Addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(made)
}

// setAddress gives the bridge this IPv4 address and no other.
func setAddress(l netlink.Link, addr netip.Prefix) error {
	want := &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), 32)}
	have, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, a := range have {
		if a.IPNet.String() == want.String() {
			return nil
		}
		if err := netlink.AddrDel(l, &a); err != nil {
			return err
		}
	}
	return netlink.AddrAdd(l, &netlink.Addr{IPNet: want})
}

// disableIPv6 keeps the link from getting a link-local address. A kernel
// without IPv6 has nothing to switch off; and where it cannot be switched off,
// as in a container, the rules stop a guest's IPv6 all the same.
func disableIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1\n"), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

func (h *linux) makeTap(c Config, slot int) error {
	if err := addTap(c, slot); err != nil {
		return fmt.Errorf("cannot make tap %s: %w", c.tap(slot), mayNot(err))
	}
	return nil
}

func (h *linux) removeLink(name string) error {
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil && !isNoLink(err) {
		return fmt.Errorf("cannot remove %s: %w", name, err)
	}
	return nil
}

func indexOf(name string) (int, error) {
	l, err := linkByName(name)
	if err != nil {
		return 0, err
	}
	return l.Attrs().Index, nil
}

func linkByName(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find link %s: %w", name, err)
	}
	return l, nil
}

func isNoLink(err error) bool {
	var missing netlink.LinkNotFoundError
	return errors.As(err, &missing) || errors.Is(err, unix.ENODEV)
}

// pin makes the bridge know which tap the MAC is behind, and the host which
// MAC the address has, for good: neither is ever learned from a guest.
func (h *linux) pin(c Config, l Lease) error {
	tap, err := linkByName(l.Tap)
	if err != nil {
		return err
	}
	bridge, err := indexOf(c.Bridge)
	if err != nil {
		return err
	}
	mac := macOf(l.Addr.Addr())
	behind := &netlink.Neigh{LinkIndex: tap.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac}
	if err := netlink.NeighSet(behind); err != nil {
		return fmt.Errorf("cannot pin %v to %s: %w", mac, l.Tap, err)
	}
	if err := netlink.NeighSet(neighbour(bridge, l)); err != nil {
		return fmt.Errorf("cannot pin %v to %v: %w", l.Addr.Addr(), mac, err)
	}
	return nil
}

// unpin forgets the address and its connections. What the bridge knows of the tap goes with the
// tap.
func (h *linux) unpin(c Config, l Lease) error {
	bridge, err := indexOf(c.Bridge)
	if err != nil {
		return err
	}
	err = netlink.NeighDel(neighbour(bridge, l))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot forget %v: %w", l.Addr.Addr(), err)
	}
	h.forgetConnections(l.Addr.Addr())
	return nil
}

func neighbour(bridge int, l Lease) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: bridge, Family: unix.AF_INET, State: netlink.NUD_PERMANENT,
		IP: l.Addr.Addr().AsSlice(), HardwareAddr: macOf(l.Addr.Addr()),
	}
}

// replaceRules leaves the guests' connections uncounted on a kernel that can't
// count them.
func (h *linux) replaceRules(tables []ruleset.Table) error {
	err := h.rules.Replace(tables)
	h.counts = err == nil
	if ruleset.Missing(err) {
		if err = h.rules.Replace(uncounted(tables)); err == nil {
			h.log.Warn("this kernel cannot limit how many connections a guest has (CONFIG_NFT_CONNLIMIT)")
		}
	}
	return mayNot(err)
}

func (h *linux) updateRules(t ruleset.Table, s *ruleset.Set, remove, add []ruleset.Element) error {
	return h.rules.Update(t, s, remove, add)
}

func (h *linux) removeRules(tables []ruleset.Table) error { return h.rules.Remove(tables) }

func (h *linux) watchRules() (watch, error) { return h.rules.NewWatch() }

func (h *linux) openChains(c Config) error {
	open, err := firewall.Open(h.rules, c.Bridge)
	if err == nil && len(open) > 0 {
		h.log.Debug("the host's firewall lets the bridge through", "chains", open)
	}
	return err
}

func (h *linux) closeChains(c Config) error { return firewall.Close(h.rules, c.Bridge) }

// openFirewalld only warns when it fails: all but the network of VMs works
// without it, and doctor tells too.
func (h *linux) openFirewalld(ctx context.Context, c Config) {
	if _, err := firewall.OpenFirewalld(ctx, c.Bridge); err != nil && ctx.Err() == nil {
		h.log.Warn("firewalld may stop the network of VMs", "error", err)
	}
}

func (h *linux) closeFirewalld(ctx context.Context, c Config) {
	if err := firewall.CloseFirewalld(ctx, c.Bridge); err != nil {
		h.log.Warn("cannot tell firewalld that the bridge is gone", "error", err)
	}
}

func (h *linux) resolve(c Config, serves func(netip.Addr) bool) (resolver, error) {
	upstreams := dns.TheHost().Servers
	if len(c.Upstreams) > 0 {
		upstreams = func() []netip.AddrPort { return c.Upstreams }
	}
	listen := netip.AddrPortFrom(c.Addr.Addr(), dnsPort)
	f, err := dns.Listen(dns.Config{Listen: listen, Upstreams: upstreams, Serves: serves}, h.log)
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, &api.Error{
			Kind:    api.KindHost,
			Message: fmt.Sprintf("another name server on this host holds port 53 on all addresses, %v included", listen.Addr()),
			Hint:    "make it listen on its own addresses only (dnsmasq: bind-dynamic and except-interface=" + c.Bridge + "; unbound and bind: name the addresses)",
		}
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}

// mayNot tells a missing right apart from all else.
func mayNot(err error) error {
	if err == nil || !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) {
		return err
	}
	return &api.Error{
		Kind:    api.KindHost,
		Message: fmt.Sprintf("this process may not change the host's network: %v", err),
		Hint:    "run bangerd as root",
	}
}
