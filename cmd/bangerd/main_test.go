package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/network"
)

// What the configuration takes for a range of addresses the network can be, and
// what it refuses the network refuses.
func TestConfigAndNetworkAgreeOnRanges(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	taken := 0
	for bits := range 33 {
		_, err := config.Load(config.Options{Flags: map[string]string{"bridge_ip": "172.16.0.1", "cidr": fmt.Sprintf("/%d", bits)}})
		asked := network.Config{Bridge: "b0", Addr: netip.PrefixFrom(netip.MustParseAddr("172.16.0.1"), bits)}.Check()
		if (err == nil) != (asked == nil) {
			t.Errorf("/%d: the configuration says %v, the network %v", bits, err, asked)
		}
		if err == nil {
			taken++
		}
	}
	if taken != 15 { // /16 to /30
		t.Errorf("%d ranges are taken", taken)
	}
}

// The hint of a state directory that is taken reaches the one who has it.
func TestWhoHoldsTheStateDirectory(t *testing.T) {
	paths := config.Paths{State: "/s/banger", Runtime: "/r/banger"}
	for text, stop := range map[string]string{
		`{"pid":7,"socket":"/r/banger/bangerd.sock"}`:     "`banger daemon stop`",
		`{"pid":7,"socket":"/other/banger/bangerd.sock"}`: "`XDG_RUNTIME_DIR=/other banger daemon stop`",
		`{"pid":7,"socket":"/run/bangerd/bangerd.sock"}`:  "`env -u XDG_RUNTIME_DIR banger daemon stop`",
		"": "the XDG_RUNTIME_DIR that it was started with",
	} {
		var told *api.Error
		if err := held(strings.NewReader(text), paths); !errors.As(err, &told) || !strings.Contains(told.Hint, stop) {
			t.Errorf("of %q is made %v", text, err)
		}
	}
}
