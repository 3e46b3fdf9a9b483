package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// Mend does what can be done without harm about what [Findings] finds: it
// switches forwarding on again where something else has switched it off, and
// removes abandoned bridges with their taps and rules. done says what it did, a
// sentence each, also beside an error.
func Mend(ctx context.Context, c Config, log *slog.Logger) (done []string, err error) {
	forwarding, forwardErr := mendForwarding(c)
	removed, removeErr := removeAbandoned(ctx, c, log)
	return append(forwarding, removed...), errors.Join(forwardErr, removeErr)
}

func mendForwarding(c Config) ([]string, error) {
	if forwardingFinding(c).Level != api.LevelWarning {
		return nil, nil
	}
	if err := writeForwarding("1"); err != nil {
		return nil, err
	}
	return []string{"switched net.ipv4.ip_forward on again"}, nil
}

func removeAbandoned(ctx context.Context, c Config, log *slog.Logger) ([]string, error) {
	names, err := abandoned(c)
	var done []string
	for _, name := range names {
		c.Bridge = name
		if removeErr := New(c, log).Close(ctx, nil); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove what is left of bridge %s: %w", name, removeErr))
			continue
		}
		done = append(done, fmt.Sprintf("removed what was left of bridge %s: its taps, rules and addresses", name))
	}
	return done, err
}

func leftoversFinding(c Config) api.Finding {
	names, err := abandoned(c)
	if err != nil {
		return api.Finding{Level: api.LevelWarning, Detail: err.Error(), Hint: "see `banger daemon logs`"}
	}
	if len(names) > 0 {
		return api.Finding{Level: api.LevelWarning, Detail: "no VM and no bangerd uses what banger once made: " + strings.Join(names, ", "),
			Hint: "`banger doctor --fix` removes these bridges with their taps and rules"}
	}
	return well("none")
}

// abandoned names the bridges of banger's, this configuration's left out, that
// nobody tends: no VM is on it and no daemon answers names there. Such a thing
// stays when bridge_name changes while the daemon is dead. Of some only the
// rules are left.
func abandoned(c Config) ([]string, error) {
	links, err := consistent(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("cannot list network links: %w", err)
	}
	ours, err := ruledBridges()
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, l := range links {
		name := l.Attrs().Name
		there[name] = true
		if l.Type() == "bridge" && l.Attrs().Alias == alias {
			ours[name] = true
		}
	}
	delete(ours, c.Bridge)
	var names []string
	for _, name := range slices.Sorted(maps.Keys(ours)) {
		if there[name] {
			tended, err := isTended(name, links)
			if err != nil {
				return nil, err
			}
			if tended {
				continue
			}
		}
		names = append(names, name)
	}
	return names, nil
}

// ruledBridges are those that a table of banger's is named after.
func ruledBridges() (map[string]bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("cannot open nftables: %w", err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("cannot list nftables tables: %w", err)
	}
	bridges := map[string]bool{}
	for _, t := range tables {
		if name, ours := strings.CutPrefix(t.Name, (Config{}).tableName()); ours && checkLinkName(name) == nil {
			bridges[name] = true
		}
	}
	return bridges, nil
}

// isTended says whether a program holds one of the bridge's taps, or the port
// where a daemon answers its guests' names.
func isTended(bridge string, links []netlink.Link) (bool, error) {
	c := Config{Bridge: bridge}
	for _, l := range links {
		_, isTap := c.slotOf(l.Attrs().Name)
		if isTap && l.Type() == "tuntap" && l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 {
			return true, nil
		}
	}
	own, ok := presentRange(bridge)
	if !ok {
		return true, nil // without an address: one that is being made
	}
	return holdsNames(own.Addr())
}

// holdsNames says whether a socket has the resolver's port of this address.
func holdsNames(addr netip.Addr) (bool, error) {
	probe, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, dnsPort)))
	if errors.Is(err, os.ErrPermission) || errors.Is(err, unix.EADDRINUSE) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot see whether %v is in use: %w", addr, err)
	}
	return false, probe.Close()
}
