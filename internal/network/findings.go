package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/network/firewall"
	"github.com/banger-vm/banger/internal/network/ruleset"
	"github.com/banger-vm/banger/internal/proc"
)

// Findings looks at what the network needs of the host and changes nothing. Each
// finding that is not well says how to mend it.
func Findings(c Config) []api.Finding {
	var found []api.Finding
	for _, check := range []struct {
		name string
		look func(Config) api.Finding
	}{
		{"network rights", rightsFinding},
		{"network names", namesFinding},
		{"IP forwarding", forwardingFinding},
		{"firewalls", firewallsFinding},
		{"connection limits", limitsFinding},
		{"network leftovers", leftoversFinding},
	} {
		f := check.look(c)
		f.Check = check.name
		found = append(found, f)
	}
	return found
}

func well(detail string) api.Finding { return api.Finding{Level: api.LevelOK, Detail: detail} }

func rightsFinding(Config) api.Finding {
	if !mayAdminister() {
		return api.Finding{Level: api.LevelError, Detail: "this process may not change the host's network", Hint: "run bangerd as root"}
	}
	tun, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return api.Finding{Level: api.LevelError, Detail: err.Error(), Hint: "load the kernel module tun: `modprobe tun`; in a container give it the device with --device " + tunDevice}
	}
	tun.Close()
	if _, err := firewall.Blocking(nil); err != nil {
		return api.Finding{Level: api.LevelError, Detail: err.Error(), Hint: "banger needs a kernel with nftables (CONFIG_NF_TABLES): `modprobe nf_tables`"}
	}
	return well("taps, bridges and nftables rules can be made")
}

// mayAdminister says whether CAP_NET_ADMIN is among the effective capabilities.
func mayAdminister() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return false
	}
	return sets[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// namesFinding tells whether the bridge's name and range are free or ours.
func namesFinding(c Config) api.Finding {
	err := c.Check()
	if err == nil {
		n := New(c, nil)
		err = n.checkFree()
	}
	var said *api.Error
	if errors.As(err, &said) {
		return api.Finding{Level: api.LevelError, Detail: said.Message, Hint: said.Hint}
	}
	if err != nil {
		return api.Finding{Level: api.LevelError, Detail: err.Error(), Hint: "see `banger daemon logs`"}
	}
	return well(fmt.Sprintf("bridge %s with %v is free for banger", c.Bridge, c.Addr.Masked()))
}

// checkFree is what the first Set will find.
func (n *Network) checkFree() error {
	links, err := n.ours()
	if err != nil {
		return err
	}
	if _, there := links[n.cfg.Bridge]; there {
		return nil
	}
	return n.checkRange()
}

func forwardingFinding(c Config) api.Finding {
	value, err := readForwarding()
	if err != nil {
		return api.Finding{Level: api.LevelWarning, Detail: err.Error(), Hint: "mount /proc"}
	}
	_, remembered := os.Stat(c.beforeFile())
	switch {
	case value == "1":
		return well("on")
	case remembered == nil:
		return api.Finding{Level: api.LevelWarning, Detail: "banger switched it on, and something else has switched it off: VMs do not reach the internet",
			Hint: "`banger doctor --fix` switches it on again, so does the next VM's start; find what switches it off, such as a file in /etc/sysctl.d"}
	}
	return well("off; banger switches it on while there are VMs")
}

func firewallsFinding(Config) api.Finding {
	if firewall.UsesLegacyTables() {
		return api.Finding{Level: api.LevelWarning, Detail: "old iptables tables filter on this host, in which banger cannot put its rules",
			Hint: "have iptables use nftables: `update-alternatives --set iptables /usr/sbin/iptables-nft`, then restart Docker or reboot"}
	}
	open, err := firewall.Places()
	if err != nil {
		return api.Finding{Level: api.LevelWarning, Detail: err.Error(), Hint: "run `nft list ruleset` as root"}
	}
	blocking, err := firewall.Blocking(open)
	if err != nil {
		return api.Finding{Level: api.LevelWarning, Detail: err.Error(), Hint: "run `nft list ruleset` as root"}
	}
	if len(blocking) > 0 {
		return api.Finding{Level: api.LevelWarning, Detail: "forwarded packets are dropped by default in " + strings.Join(blocking, " and "),
			Hint: "accept those of banger's bridge there, in both directions: no other table can undo a drop"}
	}
	if len(open) > 0 {
		return well("banger's bridge is let through in " + strings.Join(open, ", "))
	}
	return well("nothing drops forwarded packets by default")
}

func limitsFinding(c Config) api.Finding {
	err := countsConnections(c)
	switch {
	case err == nil:
		return refusedFinding(c)
	case ruleset.Missing(err):
		return api.Finding{Level: api.LevelWarning, Detail: "this kernel cannot limit how many connections guests have: they can fill the host's table",
			Hint: "use a kernel with CONFIG_NFT_CONNLIMIT; if it has the module (`modprobe nft_connlimit`), then `banger daemon restart`. All other rules are there"}
	}
	return api.Finding{Level: api.LevelWarning, Detail: fmt.Sprintf("it is not known whether guests' connections can be limited: %v", err), Hint: "run bangerd as root"}
}

// refusedFinding tells what guests do not see themselves: that they have too many
// connections looks to them like a network that loses packets.
func refusedFinding(c Config) api.Finding {
	rules, err := ruleset.Find(c.packets(nil, enoughConnections), tooMany)
	if err != nil && !ruleset.Missing(err) {
		return api.Finding{Level: api.LevelWarning, Detail: fmt.Sprintf("it is not known whether guests have too many connections: %v", err), Hint: "run bangerd as root"}
	}
	if refused := ruleset.Packets(rules); refused > 0 {
		return api.Finding{Level: api.LevelWarning, Detail: fmt.Sprintf("guests began more connections than they may have: %d packets were dropped since the rules were written last", refused),
			Hint: fmt.Sprintf("each guest has more, up to %d, where fewer run, or where net.netfilter.nf_conntrack_max is larger", enoughConnections)}
	}
	return well("guests leave the host its share of connections")
}

// countsConnections tries the rules in a network namespace that goes with the
// try.
func countsConnections(c Config) error {
	tried := make(chan error)
	proc.OnThrowawayThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			tried <- fmt.Errorf("cannot make a network namespace: %w", err)
			return
		}
		tried <- new(ruleset.Kernel).Replace(c.tables(nil, circumstances{}))
	})
	return <-tried
}
