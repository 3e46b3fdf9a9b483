package network

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/api"
)

// Lease is one VM's place in the network. It is written in the VM's record,
// which is the only truth about it.
type Lease struct {
	Slot    int          `json:"slot"`    // counts from 0; tap, MAC and user follow from it
	Tap     string       `json:"tap"`     // name of the tap on the host
	MAC     string       `json:"mac"`     // of the guest's eth0, aa:bb:cc:dd:ee:ff
	Addr    netip.Prefix `json:"addr"`    // of the guest's eth0, 172.16.0.2/24
	Gateway netip.Addr   `json:"gateway"` // the bridge's address
	DNS     netip.Addr   `json:"dns"`     // the resolver, on the bridge's address
	UID     int          `json:"uid"`     // the user that may open the tap
}

// ErrExhausted is wrapped by the [api.Error] that [Config.Pick] gives when no
// address is left.
var ErrExhausted = errors.New("no address left")

// exhausted is an api.Error that also wraps ErrExhausted.
type exhausted struct{ said *api.Error }

func (e exhausted) Error() string { return e.said.Error() }

func (e exhausted) Unwrap() []error { return []error{e.said, ErrExhausted} }

// Pick gives the lowest lease that nobody in taken has. It decides only; the
// lease is taken when it is in a VM's record. With no address left the error is
// an [api.Error] of kind exhausted that wraps [ErrExhausted].
func (c Config) Pick(taken []Lease) (Lease, error) {
	slots := make(map[int]bool, len(taken))
	addrs := make(map[netip.Addr]bool, len(taken))
	for _, l := range taken {
		slots[l.Slot] = true
		addrs[l.Addr.Addr()] = true
	}
	for slot := range c.slots() {
		if l := c.lease(slot); !slots[slot] && !addrs[l.Addr.Addr()] {
			return l, nil
		}
	}
	return Lease{}, exhausted{&api.Error{
		Kind:    api.KindExhausted,
		Message: fmt.Sprintf("all %d addresses of %v are taken by VMs", c.slots(), c.Addr.Masked()),
		Hint: fmt.Sprintf("delete VMs that you no longer need, or widen the range: set cidr = %q in config.toml, then `banger daemon restart`",
			c.wider()),
	}}
}

// Fits says whether the lease is one that this configuration would give: not
// so for a VM that was made under another range. Such a VM takes a new lease
// when it starts.
func (c Config) Fits(l Lease) bool {
	return l.Slot >= 0 && l.Slot < c.slots() && c.lease(l.Slot) == l
}

// slots is how many guests the range has room for: all its addresses less the
// network's, the broadcast address and the bridge's own.
func (c Config) slots() int { return 1<<(32-c.Addr.Bits()) - 3 }

func (c Config) lease(slot int) Lease {
	addr := c.addr(slot)
	return Lease{
		Slot:    slot,
		Tap:     c.tap(slot),
		MAC:     macOf(addr).String(),
		Addr:    netip.PrefixFrom(addr, c.Addr.Bits()),
		Gateway: c.Addr.Addr(),
		DNS:     c.Addr.Addr(),
		UID:     c.UIDBase + slot,
	}
}

// addr gives the slot's address: in order, the bridge's own left out.
func (c Config) addr(slot int) netip.Addr {
	first := number(c.Addr.Masked().Addr()) + 1
	addr := first + uint32(slot)
	if addr >= number(c.Addr.Addr()) {
		addr++
	}
	return address(addr)
}

// tap names the slot's tap.
func (c Config) tap(slot int) string { return c.tapPrefix() + strconv.Itoa(slot) }

// tapPrefix is what all taps of this bridge begin with, and no other bridge's:
// a name too long to hold the digits too is cut and told apart by a hash.
func (c Config) tapPrefix() string {
	const room = maxLinkName - len("t") - len("65535")
	if len(c.Bridge) <= room {
		return c.Bridge + "t"
	}
	sum := sha256.Sum256([]byte(c.Bridge))
	return c.Bridge[:room-5] + hex.EncodeToString(sum[:])[:5] + "t"
}

// slotOf is the reverse of tap.
func (c Config) slotOf(tap string) (int, bool) {
	digits, ok := strings.CutPrefix(tap, c.tapPrefix())
	if !ok {
		return 0, false
	}
	slot, err := strconv.Atoi(digits)
	if err != nil || slot < 0 || c.tap(slot) != tap {
		return 0, false
	}
	return slot, true
}

// wider is the range that has twice the room, as far as that goes.
func (c Config) wider() netip.Prefix {
	bits := max(c.Addr.Bits()-1, widestRange)
	return netip.PrefixFrom(c.Addr.Addr(), bits).Masked()
}

// macOf makes a locally administered unicast address out of an IPv4 address,
// so that both tell the same guest.
func macOf(addr netip.Addr) net.HardwareAddr {
	b := addr.As4()
	return net.HardwareAddr{0x06, 0x00, b[0], b[1], b[2], b[3]}
}

func isHostAddr(p netip.Prefix, addr netip.Addr) bool {
	first := number(p.Masked().Addr())
	last := first + 1<<(32-p.Bits()) - 1
	n := number(addr)
	return n > first && n < last
}

func number(addr netip.Addr) uint32 {
	b := addr.As4()
	return binary.BigEndian.Uint32(b[:])
}

func address(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
