// Package config knows what the user wants: defaults, then the config file,
// then BANGER_* environment variables, then flags. Each value keeps where it
// came from, and a wrong key or value is an error that names file, line and
// the nearest right key.
package config

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// Config is every setting, checked and typed. Paths in it are absolute.
type Config struct {
	DefaultImage   string           // image of a VM that names none
	SSHKeyPath     string           // private key that opens the guests
	SSHKeyMade     bool             // no key was configured: make SSHKeyPath when it is missing
	FirecrackerBin string           // firecracker to run; "" looks in PATH
	VMM            string           // "auto", "firecracker" or "fcqemu"
	BridgeName     string           // name of the bridge, at most 15 bytes
	Bridge         netip.Prefix     // the bridge's own address and the guests' network, 172.16.0.1/24
	TapPoolSize    int              // taps kept ready, never a limit
	Upstreams      []netip.AddrPort // DNS servers the guests' questions go to; empty: the host's own
	WebListenAddr  string           // where the web UI listens; "" is off
	Mirror         string           // Debian mirror, a URL; "" finds one
	SecurityMirror string           // the mirror of Debian's security suite; "" finds one
	Catalogs       []string         // paths and addresses of catalogs of images beside the embedded one
	LogLevel       slog.Level       // what the daemon logs
	VCPUs          int              // of a VM that names none
	MemoryMiB      int64            // of a VM that names none
	DiskMiB        int64            // of a VM that names none
	BootTimeout    time.Duration    // how long a guest may take to get ready
	DetachKeys     string           // keys that detach from a terminal session, see ParseKeys
	CredentialSync bool             // guests get the user's credentials
	Credentials    []Credential     // more of them than the standard ones

	Home string // the user's

	Paths Paths
	File  string // the config file that was looked for, there or not

	values []Value
}

// Value is one setting as text, with its origin.
type Value struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin string `json:"origin"` // "default", "/path/config.toml:3", "BANGER_VMM", "flag"
	About  string `json:"about"`
}

// Credential is a file of the host that guests get. Both paths are absolute.
type Credential struct {
	Host  string
	Guest string
}

// Options are where Load looks. Its zero value looks at the real environment
// and at the user's own file.
type Options struct {
	Getenv func(string) string // nil: os.Getenv
	UID    int                 // whose directories; read only beside a Getenv, else the caller's
	File   string              // config file; "": BANGER_CONFIG, else config.toml in the config directory
	Flags  map[string]string   // key → text, stronger than everything else
}

// OriginDefault is the origin of a value that nobody set.
const OriginDefault = "default"

// Load reads the settings. A missing config file is no error; every other
// trouble is an [Error].
func Load(o Options) (*Config, error) {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
		o.UID = os.Getuid()
	}
	paths, err := FindPaths(o.Getenv, o.UID)
	if err != nil {
		return nil, err
	}
	texts, err := collect(o, configFile(o, paths))
	if err != nil {
		return nil, err
	}
	userHome, err := home(o.Getenv, o.UID)
	if err != nil {
		return nil, err
	}
	c := &Config{Paths: paths, File: configFile(o, paths), Home: userHome}
	for i := range keys {
		if err := keys[i].apply(c, texts[keys[i].name]); err != nil {
			return nil, err
		}
	}
	return c, c.finish()
}

// Values lists every setting in a fixed order.
func (c *Config) Values() []Value { return c.values }

// Origin says where the value of key came from.
func (c *Config) Origin(key string) string {
	for _, v := range c.values {
		if v.Key == key {
			return v.Origin
		}
	}
	return ""
}

func configFile(o Options, p Paths) string {
	switch {
	case o.File != "":
		return absolute(o.File)
	case o.Getenv("BANGER_CONFIG") != "":
		return absolute(o.Getenv("BANGER_CONFIG"))
	}
	return filepath.Join(p.Config, "config.toml")
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// text is a value before it is understood, with where it stands.
type text struct {
	value  string
	origin string
	file   string // set when origin is a place in the config file
	line   int
}

// collect lays the layers over each other: defaults, file, environment, flags.
func collect(o Options, file string) (map[string]text, error) {
	texts := map[string]text{}
	for _, k := range keys {
		texts[k.name] = text{value: k.def, origin: OriginDefault}
	}
	if err := readFile(file, o.File != "" || o.Getenv("BANGER_CONFIG") != "", texts); err != nil {
		return nil, err
	}
	for _, k := range keys {
		if v := o.Getenv(k.env()); v != "" {
			texts[k.name] = text{value: v, origin: k.env()}
		}
	}
	for name, v := range o.Flags {
		if _, ok := texts[name]; !ok {
			return nil, unknownKey(name, text{origin: "flag"})
		}
		texts[name] = text{value: v, origin: "flag"}
	}
	joinNetwork(texts)
	return texts, nil
}

// joinNetwork lets the bridge's address and its network follow each other where
// only one of them is set.
func joinNetwork(texts map[string]text) {
	bridge, network := texts["bridge_ip"], texts["cidr"]
	switch {
	case bridge.origin != OriginDefault && network.origin == OriginDefault:
		network = bridge.followedBy("24")
	case bridge.origin == OriginDefault && network.origin != OriginDefault:
		p, err := netip.ParsePrefix(network.value)
		if err != nil || !p.Addr().Is4() || p.Contains(netip.MustParseAddr(bridge.value)) {
			return
		}
		bridge = network.followedBy(p.Masked().Addr().Next().String())
	}
	texts["bridge_ip"], texts["cidr"] = bridge, network
}

// followedBy is a value that stands where t does, which it is made of.
func (t text) followedBy(value string) text {
	t.value = value
	return t
}

// finish joins the settings that only make sense together.
func (c *Config) finish() error {
	if c.SSHKeyPath == "" {
		c.SSHKeyPath = c.Paths.SSHKey()
		c.SSHKeyMade = true
	}
	return c.checkBridge()
}
