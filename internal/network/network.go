// Package network gives VMs their network: one bridge with the host's address
// on it, a tap for each VM, NAT and isolation by nftables tables of its own, a
// DNS forwarder on the bridge's address, and the accept rules that the host's
// own firewalls (Docker, ufw, firewalld) need to let the bridge through.
//
// The whole wanted configuration goes in ([Network.Set]) and the package makes
// the kernel be exactly that, in the network namespace of the process. What it
// does is reached by netlink, ioctl and D-Bus; no program of the host is run.
package network

import (
	"fmt"
	"net/netip"

	"github.com/banger-vm/banger/api"
)

// Limits of the configured address range: the names of taps hold at most five
// digits, and a range needs its own two addresses, the host's and a guest's.
const (
	widestRange   = 16
	narrowestBits = 30
	maxLinkName   = 15 // IFNAMSIZ less the closing zero
)

// Config is what the user decides about the network.
type Config struct {
	// Bridge is the name of the bridge, 1 to 15 bytes.
	Bridge string
	// Addr is the bridge's own address and the length of the range that
	// guests get theirs from, such as 172.16.0.1/24.
	Addr netip.Prefix
	// Ready is how many unused taps are kept at hand.
	Ready int
	// Upstreams are the name servers to ask. Empty: those of the host's
	// resolv.conf, whatever it says at the moment.
	Upstreams []netip.AddrPort
	// UIDBase plus the slot is the user that may open a lease's tap.
	UIDBase int
	// State is the directory for what must be put back after a crash: the
	// value that a sysctl had before.
	State string
}

// Check says what is wrong with the configuration, as an [api.Error] of kind
// bad-request, or nil.
func (c Config) Check() error {
	if err := checkLinkName(c.Bridge); err != nil {
		return err
	}
	if !c.Addr.IsValid() || !c.Addr.Addr().Is4() {
		return badConfig("the network range must be an IPv4 range", "set bridge_ip and cidr, such as 172.16.0.1 and 172.16.0.0/24")
	}
	bits := c.Addr.Bits()
	if bits < widestRange || bits > narrowestBits {
		return badConfig(fmt.Sprintf("the network range %v has a prefix of %d bits", c.Addr.Masked(), bits),
			fmt.Sprintf("choose a cidr between /%d and /%d", widestRange, narrowestBits))
	}
	if !isHostAddr(c.Addr, c.Addr.Addr()) {
		return badConfig(fmt.Sprintf("bridge_ip %v is the first or the last address of %v", c.Addr.Addr(), c.Addr.Masked()),
			fmt.Sprintf("choose another, such as %v", c.Addr.Masked().Addr().Next()))
	}
	if c.Ready < 0 {
		return badConfig(fmt.Sprintf("tap_pool_size is %d", c.Ready), "it must be 0 or more")
	}
	return nil
}

func checkLinkName(name string) error {
	if name == "" || len(name) > maxLinkName || name == "." || name == ".." {
		return badConfig(fmt.Sprintf("bridge_name %q cannot be the name of an interface", name),
			fmt.Sprintf("choose 1 to %d letters, digits, dashes or dots", maxLinkName))
	}
	for _, r := range name {
		if !isLinkNameRune(r) {
			return badConfig(fmt.Sprintf("bridge_name %q has %q in it", name, r), "use letters, digits, dashes, underscores and dots")
		}
	}
	return nil
}

func isLinkNameRune(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return true
	}
	return r == '-' || r == '_' || r == '.'
}

func badConfig(message, hint string) error {
	return &api.Error{Kind: api.KindBadRequest, Message: message, Hint: hint}
}
