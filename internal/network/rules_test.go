package network

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRules shows the rules as nft would print them; that the kernel has them
// so is a test on the kernel.
func TestRules(t *testing.T) {
	c := config("banger0", "172.16.0.1/24")
	want := `table inet banger-banger0 {
	set uplinks {
		type ifname
		elements = { "br0" }
	}

	set connections {
		type ipv4_addr
		size 65536
		flags dynamic
	}

	chain from_guests {
		type filter hook prerouting priority mangle; policy accept;
		iifname != "banger0" accept comment "not from a guest"
		ct state established,related accept
		ct state invalid drop comment "would leave with a guest's address"
		add @connections { ip saddr ct count over 16384 } counter packets 0 bytes 0 drop comment "more connections than a guest may have"
		ip daddr 172.16.0.1 udp dport 53 accept comment "resolver"
		ip daddr 172.16.0.1 tcp dport 53 accept comment "resolver"
		ip daddr 172.16.0.1 icmp type echo-request accept comment "gateway answers pings"
		fib daddr type local drop comment "no other service of the host"
		fib daddr type broadcast drop comment "no broadcast"
		ip daddr 169.254.0.0/16 drop comment "no metadata"
		ip daddr 224.0.0.0/4 drop comment "no multicast"
	}

	chain forwarded {
		type filter hook forward priority filter; policy accept;
		ct state established,related accept comment "guests' replies, also to what lives on this host"
		iifname "banger0" oifname != "banger0" meta oifkind "bridge" oifname != @uplinks drop comment "no network that lives on this host"
		oifname "banger0" drop comment "guests are called by their host only"
	}

	chain nat {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 172.16.0.0/24 oifname != "banger0" masquerade
	}
}
table bridge banger-banger0 {
	set guests {
		type ifname . ether_addr . ipv4_addr
		elements = { "banger0t0" . 06:00:ac:10:00:02 . 172.16.0.2, "banger0t5" . 06:00:ac:10:00:07 . 172.16.0.7 }
	}

	chain from_guests {
		type filter hook prerouting priority filter; policy accept;
		iifname != "banger0t*" accept comment "not from a guest"
		iifname . ether saddr . ip saddr @guests accept comment "its own addresses"
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp daddr ip 172.16.0.1 iifname . ether saddr . arp saddr ip @guests iifname . arp saddr ether . arp saddr ip @guests accept comment "its own addresses, to the gateway"
		drop comment "nothing else, IPv6 included"
	}
}
`
	var got string
	for _, table := range c.tables([]Lease{c.lease(0), c.lease(5)}, circumstances{uplinks: []string{"br0"}, connections: 1 << 18}) {
		got += table.String()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestEachGuestsConnections(t *testing.T) {
	for _, tt := range []struct {
		table, guests int
		most          uint32
	}{
		{0, 9, 16384}, // the table is not there yet
		{1 << 18, 0, 16384}, {1 << 18, 1, 16384}, {1 << 18, 4, 16384}, {1 << 18, 5, 8192}, {1 << 18, 16, 4096}, {1 << 18, 17, 2048}, {1 << 18, 253, 256},
		{1 << 16, 1, 16384}, {1 << 16, 2, 8192},
		{100, 200, 1},
	} {
		if got := (circumstances{connections: tt.table}).mostConnections(tt.guests); got != tt.most {
			t.Errorf("each of %d guests may have %d of %d, not %d", tt.guests, got, tt.table, tt.most)
		}
	}
}
