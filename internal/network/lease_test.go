package network

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/banger-vm/banger/api"
)

func config(bridge, addr string) Config {
	return Config{Bridge: bridge, Addr: netip.MustParsePrefix(addr), UIDBase: 720000}
}

func TestPick(t *testing.T) {
	c := config("banger0", "172.16.0.1/24")
	var taken []Lease
	for _, want := range []string{
		"0 banger0t0 06:00:ac:10:00:02 172.16.0.2/24 via 172.16.0.1 dns 172.16.0.1 uid 720000",
		"1 banger0t1 06:00:ac:10:00:03 172.16.0.3/24 via 172.16.0.1 dns 172.16.0.1 uid 720001",
		"2 banger0t2 06:00:ac:10:00:04 172.16.0.4/24 via 172.16.0.1 dns 172.16.0.1 uid 720002",
	} {
		l, err := c.Pick(taken)
		if err != nil || said(l) != want {
			t.Errorf("lease %s, %v\nwant  %s", said(l), err, want)
		}
		taken = append(taken, l)
	}
	if l, err := c.Pick([]Lease{taken[0], taken[2]}); err != nil || l != taken[1] {
		t.Errorf("a freed lease is not given again: %s, %v", said(l), err)
	}
}

func said(l Lease) string {
	return fmt.Sprintf("%d %s %s %v via %v dns %v uid %d", l.Slot, l.Tap, l.MAC, l.Addr, l.Gateway, l.DNS, l.UID)
}

func TestPickPassesOverTheBridge(t *testing.T) {
	c := config("banger0", "10.0.0.2/29")
	var got []string
	var taken []Lease
	for {
		l, err := c.Pick(taken)
		if err != nil {
			break
		}
		got = append(got, l.Addr.Addr().String())
		taken = append(taken, l)
	}
	if want := "10.0.0.1 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"; strings.Join(got, " ") != want {
		t.Errorf("addresses %v, want %s", got, want)
	}
}

func TestPickAvoidsAddressesOfAnotherRange(t *testing.T) {
	narrow, wide := config("banger0", "10.0.0.1/24"), config("banger0", "10.0.0.1/16")
	old, err := narrow.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	old.Slot = 99 // as a lease may be of a range that began elsewhere
	l, err := wide.Pick([]Lease{old})
	if err != nil || l.Addr.Addr() == old.Addr.Addr() || l.Slot == old.Slot {
		t.Errorf("beside %s it gives %s, %v", said(old), said(l), err)
	}
}

func TestPickExhausted(t *testing.T) {
	c := config("banger0", "10.0.0.1/30")
	l, err := c.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Pick([]Lease{l})
	var said *api.Error
	if !errors.Is(err, ErrExhausted) || !errors.As(err, &said) || said.Kind != api.KindExhausted {
		t.Fatalf("error %v", err)
	}
	if want := "all 1 addresses of 10.0.0.0/30 are taken by VMs"; said.Message != want {
		t.Errorf("message %q, want %q", said.Message, want)
	}
	if !strings.Contains(said.Hint, `cidr = "10.0.0.0/29"`) {
		t.Errorf("hint %q does not tell how to widen it", said.Hint)
	}
}

func TestFits(t *testing.T) {
	c := config("banger0", "172.16.0.1/24")
	l, err := c.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Fits(l) {
		t.Error("a lease does not fit the configuration it is from")
	}
	for _, other := range []Config{config("banger0", "172.17.0.1/24"), config("banger1", "172.16.0.1/24"), config("banger0", "172.16.0.9/24")} {
		if other.Fits(l) {
			t.Errorf("%s fits %v on %s", said(l), other.Addr, other.Bridge)
		}
	}
	l.Slot = -1
	if c.Fits(l) {
		t.Error("slot -1 fits")
	}
}

// TestNames holds for any configuration that passes: names are short enough,
// are told apart, and lead back to their slot.
func TestNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits := rapid.IntRange(widestRange, narrowestBits).Draw(t, "bits")
		inside := rapid.Uint32Range(1, 1<<(32-bits)-2).Draw(t, "bridge address")
		first := number(netip.PrefixFrom(address(rapid.Uint32().Draw(t, "range")), bits).Masked().Addr())
		c := Config{
			Bridge:  rapid.StringMatching(`[a-z][a-z0-9_.-]{0,14}`).Draw(t, "bridge"),
			Addr:    netip.PrefixFrom(address(first+inside), bits),
			UIDBase: 720000,
		}
		if err := c.Check(); err != nil {
			t.Fatalf("%v on %s is refused: %v", c.Addr, c.Bridge, err)
		}
		slot := rapid.IntRange(0, c.slots()-1).Draw(t, "slot")
		l := c.lease(slot)
		if back, ok := c.slotOf(l.Tap); !ok || back != slot || len(l.Tap) > maxLinkName {
			t.Errorf("tap %q of slot %d leads to %d", l.Tap, slot, back)
		}
		if !isHostAddr(c.Addr, l.Addr.Addr()) || l.Addr.Addr() == c.Addr.Addr() || !c.Fits(l) {
			t.Errorf("slot %d has the address %v in %v", slot, l.Addr, c.Addr)
		}
	})
}

func TestLongBridgeNamesHaveTapsOfTheirOwn(t *testing.T) {
	a, b := config("development-one", "10.0.0.1/24"), config("development-two", "10.0.1.1/24")
	if a.tapPrefix() == b.tapPrefix() {
		t.Errorf("both have taps %s…", a.tapPrefix())
	}
	if _, ours := a.slotOf(b.tap(3)); ours {
		t.Errorf("%s is taken for one of %s", b.tap(3), a.Bridge)
	}
	for _, name := range []string{"banger0", "banger0t", "banger0t01", "banger0t-1", "banger0tx", "banger0tunnel"} {
		if slot, ours := config("banger0", "10.0.0.1/24").slotOf(name); ours {
			t.Errorf("%s is taken for the tap of slot %d", name, slot)
		}
	}
}

func TestCheck(t *testing.T) {
	for _, bad := range []struct {
		cfg  Config
		want string
	}{
		{config("", "10.0.0.1/24"), `bridge_name "" cannot be the name of an interface`},
		{config("far-too-long-name", "10.0.0.1/24"), `bridge_name "far-too-long-name" cannot be the name of an interface`},
		{config("br/0", "10.0.0.1/24"), `bridge_name "br/0" has '/' in it`},
		{config("br\"0", "10.0.0.1/24"), `bridge_name "br\"0" has '"' in it`},
		{config("br0", "fd00::1/64"), "the network range must be an IPv4 range"},
		{Config{Bridge: "br0"}, "the network range must be an IPv4 range"},
		{config("br0", "10.0.0.1/31"), "the network range 10.0.0.0/31 has a prefix of 31 bits"},
		{config("br0", "10.0.0.1/8"), "the network range 10.0.0.0/8 has a prefix of 8 bits"},
		{config("br0", "10.0.0.0/24"), "bridge_ip 10.0.0.0 is the first or the last address of 10.0.0.0/24"},
		{config("br0", "10.0.0.255/24"), "bridge_ip 10.0.0.255 is the first or the last address of 10.0.0.0/24"},
		{Config{Bridge: "br0", Addr: netip.MustParsePrefix("10.0.0.1/24"), Ready: -1}, "tap_pool_size is -1"},
	} {
		var said *api.Error
		if err := bad.cfg.Check(); !errors.As(err, &said) || said.Kind != api.KindBadRequest || said.Message != bad.want || said.Hint == "" {
			t.Errorf("%+v: %v\nwant: %s", bad.cfg, err, bad.want)
		}
	}
	if err := config("br-0.x_Y", "10.0.0.254/24").Check(); err != nil {
		t.Errorf("a good one is refused: %v", err)
	}
}
