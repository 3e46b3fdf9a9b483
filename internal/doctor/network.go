package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strings"

	"github.com/banger-vm/banger/api"
)

func taps(_ context.Context, o Options) []api.Finding {
	err := o.Host.MakeTap()
	switch {
	case err == nil:
		return one("network devices", api.LevelOK, "taps can be made", "")
	case errors.Is(err, fs.ErrNotExist):
		return one("network devices", api.LevelError, fmt.Sprintf("no tap can be made: %v", err),
			"load the module with `modprobe tun`; in a container, pass /dev/net/tun through")
	}
	return one("network devices", api.LevelError, fmt.Sprintf("no tap can be made: %v", err),
		"bangerd needs the capability NET_ADMIN; in a container, add it")
}

func nftables(_ context.Context, o Options) []api.Finding {
	if err := o.Host.ListTables(); err != nil {
		return one("nftables", api.LevelError, fmt.Sprintf("the kernel's nftables can't be used: %v", err),
			"load the module with `modprobe nf_tables`; bangerd needs the capability NET_ADMIN")
	}
	return one("nftables", api.LevelOK, "usable", "")
}

// bridge looks whether the bridge's name belongs to something else.
func bridge(_ context.Context, o Options) []api.Finding {
	name := o.Config.BridgeName
	if _, err := o.Host.ReadDir("/sys/class/net/" + name); err != nil {
		return one("bridge", api.LevelOK, name+" is free", "")
	}
	if _, err := o.Host.ReadDir("/sys/class/net/" + name + "/bridge"); err != nil {
		return one("bridge", api.LevelError, name+" is there and is no bridge", "set bridge_name in the config to a free name")
	}
	return one("bridge", api.LevelOK, name+" is up", "")
}

// forwarding tells of the sysctl that NAT needs, and of who sets it.
func forwarding(_ context.Context, o Options) []api.Finding {
	const path = "/proc/sys/net/ipv4/ip_forward"
	value, err := o.Host.ReadFile(path)
	if err != nil {
		return one("sysctl", api.LevelWarning, fmt.Sprintf("net.ipv4.ip_forward can't be read: %v", err), "guests reach the outside only with net.ipv4.ip_forward = 1")
	}
	if strings.TrimSpace(string(value)) == "1" {
		return one("sysctl", api.LevelOK, "net.ipv4.ip_forward = 1", "")
	}
	if !o.Host.Writable(path) {
		return one("sysctl", api.LevelWarning, "net.ipv4.ip_forward = 0, and it can't be changed from here: guests will not reach the outside",
			"run `sysctl -w net.ipv4.ip_forward=1` on the host")
	}
	return one("sysctl", api.LevelInfo, "net.ipv4.ip_forward = 0: banger sets it while VMs run", "")
}

// overlaps warns where the guests' network is somebody else's too.
func overlaps(_ context.Context, o Options) []api.Finding {
	links, err := o.Host.Addresses()
	if err != nil {
		return one("addresses", api.LevelWarning, fmt.Sprintf("the host's addresses can't be read: %v", err), "see that nothing else uses "+o.Config.Bridge.Masked().String())
	}
	for _, l := range links {
		if l.Name != o.Config.BridgeName && l.Addr.Overlaps(o.Config.Bridge.Masked()) {
			return one("addresses", api.LevelWarning, fmt.Sprintf("%s on %s overlaps with the guests' network %s", l.Addr, l.Name, o.Config.Bridge.Masked()),
				"set bridge_ip and cidr in the config to a network that is free here")
		}
	}
	return one("addresses", api.LevelOK, o.Config.Bridge.Masked().String()+" is free", "")
}

// Link is an address and the device that has it.
type Link struct {
	Name string
	Addr netip.Prefix
}
