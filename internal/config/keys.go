package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/spelling"
)

// key is one setting: its default, how its text is understood and how it is
// shown. The table below is the only list of settings there is.
type key struct {
	name  string
	def   string
	about string
	kind  kind
	set   func(*Config, string) error
	show  func(*Config) string
}

// kind is what a value may be in the config file.
type kind int

const (
	kindString kind = iota
	kindInt
	kindStringOrInt // sizes, and a network given by its prefix length
	kindPairs       // yes or no, or tables of host and guest
	kindList        // texts; elsewhere with commas between them
)

func (k key) env() string { return "BANGER_" + strings.ToUpper(k.name) }

// apply understands t and keeps it in c.
func (k key) apply(c *Config, t text) error {
	if err := k.set(c, t.value); err != nil {
		return badValue(k.name, t, err)
	}
	c.values = append(c.values, Value{Key: k.name, Value: k.show(c), Origin: t.origin, About: k.about})
	return nil
}

var keys = []key{
	{"default_image_name", "debian-bookworm", "image of a VM that names none", kindString,
		func(c *Config, s string) error { return setName(&c.DefaultImage, s) },
		func(c *Config) string { return c.DefaultImage }},
	{"ssh_key_path", "", "private key that opens the guests; empty: one is made", kindString,
		func(c *Config, s string) error { return setPath(&c.SSHKeyPath, s) },
		func(c *Config) string { return cmpOr(c.SSHKeyPath, c.Paths.SSHKey()) }},
	{"firecracker_bin", "", "the firecracker to run; empty: looked for in PATH", kindString,
		func(c *Config, s string) error { return setPath(&c.FirecrackerBin, s) },
		func(c *Config) string { return c.FirecrackerBin }},
	{"vmm", "auto", "auto, firecracker or fcqemu", kindString,
		func(c *Config, s string) error { return setOneOf(&c.VMM, s, "auto", "firecracker", "fcqemu") },
		func(c *Config) string { return c.VMM }},
	{"bridge_name", "banger0", "the bridge that guests are on", kindString,
		func(c *Config, s string) error { return setInterface(&c.BridgeName, s) },
		func(c *Config) string { return c.BridgeName }},
	{"bridge_ip", "172.16.0.1", "the bridge's address, the guests' gateway; the first one of cidr, where only that is set", kindString,
		setBridgeIP,
		func(c *Config) string { return c.Bridge.Addr().String() }},
	{"cidr", "172.16.0.0/24", "the guests' network; the /24 of bridge_ip, where only that is set", kindStringOrInt,
		setCIDR,
		func(c *Config) string { return c.Bridge.Masked().String() }},
	{"tap_pool_size", "4", "network devices kept ready; not a limit", kindInt,
		func(c *Config, s string) error { return setInt(&c.TapPoolSize, s, 0, 250) },
		func(c *Config) string { return strconv.Itoa(c.TapPoolSize) }},
	{"default_dns", "", "DNS servers for the guests, comma-separated; empty: the host's", kindString,
		setDNS,
		showDNS},
	{"web_listen_addr", "127.0.0.1:7777", "where the web UI is to listen, which there is not yet; empty or off: nowhere", kindString,
		func(c *Config, s string) error { return setListen(&c.WebListenAddr, s) },
		func(c *Config) string { return c.WebListenAddr }},
	{"mirror", "", "Debian mirror; empty: the host's own, else Debian's", kindString,
		func(c *Config, s string) error { return setURL(&c.Mirror, s) },
		func(c *Config) string { return c.Mirror }},
	{"security_mirror", "", "mirror of Debian's security suite; empty: found beside the mirror", kindString,
		func(c *Config, s string) error { return setURL(&c.SecurityMirror, s) },
		func(c *Config) string { return c.SecurityMirror }},
	{"catalogs", "", "more catalogs of images, each a path or an https address; asked in this order, after banger's own", kindList,
		setCatalogs,
		func(c *Config) string { return strings.Join(c.Catalogs, ",") }},
	{"log_level", "info", "debug, info, warn or error", kindString,
		setLevel,
		func(c *Config) string { return strings.ToLower(c.LogLevel.String()) }},
	{"default_vcpus", "2", "processors of a VM that names none", kindInt,
		func(c *Config, s string) error { return setInt(&c.VCPUs, s, 1, 32) },
		func(c *Config) string { return strconv.Itoa(c.VCPUs) }},
	{"default_memory", "2GiB", "memory of a VM that names none", kindStringOrInt,
		func(c *Config, s string) error { return setMiB(&c.MemoryMiB, s, MinMemoryMiB) },
		func(c *Config) string { return FormatMiB(c.MemoryMiB) }},
	{"default_disk", "20GiB", "disk of a VM that names none", kindStringOrInt,
		func(c *Config, s string) error { return setMiB(&c.DiskMiB, s, MinDiskMiB) },
		func(c *Config) string { return FormatMiB(c.DiskMiB) }},
	{"boot_timeout", "3m", "how long a guest may take to get ready", kindString,
		func(c *Config, s string) error { return setDuration(&c.BootTimeout, s) },
		func(c *Config) string { return c.BootTimeout.String() }},
	{"credential_sync", "true", "whether guests get your agents' credentials; more files by `[[credential_sync]]` with `host` and `guest`", kindPairs,
		setCredentials,
		showCredentials},
	{"detach_keys", "ctrl-p,ctrl-q", "keys that detach from a terminal session; none: no keys do", kindString,
		func(c *Config, s string) error { return setKeys(&c.DetachKeys, s) },
		func(c *Config) string { return c.DetachKeys }},
}

// The least a VM may be given: below it no default image comes up.
const (
	MinMemoryMiB = 128
	MinDiskMiB   = 64
)

func cmpOr(s, standIn string) string {
	if s == "" {
		return standIn
	}
	return s
}

func setName(dst *string, s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	*dst = s
	return nil
}

func setPath(dst *string, s string) error {
	if s != "" && !filepath.IsAbs(s) {
		return errors.New("must be an absolute path")
	}
	*dst = s
	return nil
}

func setOneOf(dst *string, s string, allowed ...string) error {
	if !slices.Contains(allowed, s) {
		err := fmt.Errorf("must be one of %s", strings.Join(allowed, ", "))
		if near := spelling.Nearest(s, allowed); near != "" {
			err = fmt.Errorf("%w; did you mean %q?", err, near)
		}
		return err
	}
	*dst = s
	return nil
}

// setInterface holds to the kernel's dev_valid_name: 1 to 15 bytes, no slash,
// colon or white space, not "." or "..".
func setInterface(dst *string, s string) error {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsAny(s, "/: \t\n\r\v\f") {
		return errors.New("must be an interface name: 1 to 15 characters, no spaces, '/' or ':'")
	}
	*dst = s
	return nil
}

func setBridgeIP(c *Config, s string) error {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is4() {
		return errors.New("must be an IPv4 address such as 172.16.0.1")
	}
	c.Bridge = netip.PrefixFrom(addr, 32)
	return nil
}

// The prefix lengths that the network can be: those of package network, which
// says why.
const (
	widestRange    = 16
	narrowestRange = 30
)

// setCIDR comes after bridge_ip in the table. A bare length takes bridge_ip's
// own network.
func setCIDR(c *Config, s string) error {
	ip := c.Bridge.Addr()
	if bits, err := strconv.Atoi(strings.TrimPrefix(s, "/")); err == nil {
		s = fmt.Sprintf("%s/%d", ip, bits)
	}
	network, err := netip.ParsePrefix(s)
	if err != nil || !network.Addr().Is4() {
		return errors.New("must be an IPv4 network such as 172.16.0.0/24")
	}
	if network.Bits() < widestRange || network.Bits() > narrowestRange {
		return fmt.Errorf("must have a prefix length between /%d and /%d", widestRange, narrowestRange)
	}
	if !network.Contains(ip) {
		return fmt.Errorf("must contain bridge_ip, which is %s", ip)
	}
	c.Bridge = netip.PrefixFrom(ip, network.Bits())
	return nil
}

// checkBridge refuses the two addresses that no host can have.
func (c *Config) checkBridge() error {
	network := c.Bridge.Masked()
	last := lastAddr(network)
	if ip := c.Bridge.Addr(); ip == network.Addr() || ip == last {
		return badValue("bridge_ip", text{value: ip.String(), origin: c.Origin("bridge_ip")},
			fmt.Errorf("must be an address of a host in %s, not its first or last", network))
	}
	return nil
}

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for bit := p.Bits(); bit < 32; bit++ {
		b[bit/8] |= 1 << (7 - bit%8)
	}
	return netip.AddrFrom4(b)
}

func setInt(dst *int, s string, low, high int) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return fmt.Errorf("must be a number from %d to %d", low, high)
	}
	*dst = n
	return nil
}

func setDNS(c *Config, s string) error {
	c.Upstreams = nil
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }) {
		server, err := parseServer(field)
		if err != nil {
			return err
		}
		c.Upstreams = append(c.Upstreams, server)
	}
	return nil
}

func parseServer(s string) (netip.AddrPort, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(addr, 53), nil
	}
	server, err := netip.ParseAddrPort(s)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("must be addresses such as 192.0.2.1 or 192.0.2.1:5353, not %q", s)
	}
	return server, nil
}

func showDNS(c *Config) string {
	shown := make([]string, len(c.Upstreams))
	for i, server := range c.Upstreams {
		shown[i] = server.String()
		if server.Port() == 53 {
			shown[i] = server.Addr().String()
		}
	}
	return strings.Join(shown, ",")
}

// setListen takes "off" for "" too, since an empty environment variable counts
// as unset.
func setListen(dst *string, s string) error {
	if s == "off" {
		s = ""
	}
	if s != "" {
		_, port, err := net.SplitHostPort(s)
		if err != nil {
			return errors.New("must be host:port, such as 127.0.0.1:7777")
		}
		if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
			return errors.New("must end in a port from 0 to 65535")
		}
	}
	*dst = s
	return nil
}

func setURL(dst *string, s string) error {
	if s != "" {
		u, err := url.Parse(s)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return errors.New("must be an http:// or https:// address")
		}
	}
	*dst = strings.TrimRight(s, "/")
	return nil
}

func setCatalogs(c *Config, s string) error {
	c.Catalogs = nil
	for _, source := range strings.Split(s, ",") {
		source = strings.TrimSpace(source)
		if source == "" {
			continue
		}
		if !filepath.IsAbs(source) && !strings.Contains(source, "://") {
			return fmt.Errorf("must be absolute paths or addresses, and %q is neither", source)
		}
		if slices.Contains(c.Catalogs, source) {
			return fmt.Errorf("names %s twice", source)
		}
		c.Catalogs = append(c.Catalogs, source)
	}
	return nil
}

func setLevel(c *Config, s string) error {
	var name string
	if err := setOneOf(&name, strings.ToLower(s), "debug", "info", "warn", "error"); err != nil {
		return err
	}
	return c.LogLevel.UnmarshalText([]byte(name))
}

func setMiB(dst *int64, s string, least int64) error {
	mib, err := ParseMiB(s)
	if err != nil {
		return err
	}
	if mib < least {
		return fmt.Errorf("must be at least %s", FormatMiB(least))
	}
	*dst = mib
	return nil
}

func setDuration(dst *time.Duration, s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return errors.New(`must be a time such as "90s" or "3m"`)
	}
	*dst = d
	return nil
}
