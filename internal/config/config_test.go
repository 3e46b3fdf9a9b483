package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/internal/config"
)

// load reads a config file of the given text, with the environment and flags.
func load(t *testing.T, file string, env, flags map[string]string) (*config.Config, string, error) {
	t.Helper()
	home := t.TempDir()
	path := filepath.Join(home, ".config/banger/config.toml")
	if file != "" {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.Load(config.Options{
		Getenv: func(name string) string {
			if name == "HOME" {
				return home
			}
			return env[name]
		},
		UID:   1000,
		Flags: flags,
	})
	return c, path, err
}

func TestDefaults(t *testing.T) {
	c, path, err := load(t, "", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	home := strings.TrimSuffix(path, "/.config/banger/config.toml")
	want := map[string]string{
		"default_image_name": "debian-bookworm", "ssh_key_path": home + "/.config/banger/ssh/id_ed25519",
		"firecracker_bin": "", "vmm": "auto", "bridge_name": "banger0", "bridge_ip": "172.16.0.1",
		"cidr": "172.16.0.0/24", "tap_pool_size": "4", "default_dns": "", "web_listen_addr": "127.0.0.1:7777",
		"mirror": "", "security_mirror": "", "catalogs": "", "log_level": "info", "default_vcpus": "2",
		"detach_keys":    "ctrl-p,ctrl-q",
		"default_memory": "2GiB", "default_disk": "20GiB", "boot_timeout": "3m0s", "credential_sync": "true",
	}
	got := map[string]string{}
	for _, v := range c.Values() {
		got[v.Key] = v.Value
		if v.Origin != config.OriginDefault {
			t.Errorf("origin of %s is %q", v.Key, v.Origin)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if c.Bridge.String() != "172.16.0.1/24" || !c.SSHKeyMade || c.BootTimeout != 3*time.Minute {
		t.Errorf("typed values are wrong: %+v", c)
	}
	if c.SSHKeyPath != home+"/.config/banger/ssh/id_ed25519" {
		t.Errorf("ssh key is %s", c.SSHKeyPath)
	}
}

func TestLayers(t *testing.T) {
	file := "# mine\nvmm = \"fcqemu\"\nbridge_ip = '10.9.0.1'\ncidr = 16\ndefault_vcpus = 3\ndefault_memory = 512\nlog_level = \"debug\"\ncatalogs = [\"/srv/a.json\", \"https://b.example/c.json\"]\n"
	env := map[string]string{"BANGER_DEFAULT_VCPUS": "4", "BANGER_LOG_LEVEL": "warn", "BANGER_WEB_LISTEN_ADDR": "off"}
	c, path, err := load(t, file, env, map[string]string{"log_level": "error", "default_dns": "192.0.2.1,[2001:db8::1]:54"})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][2]string{
		"vmm":             {"fcqemu", path + ":2"},
		"bridge_ip":       {"10.9.0.1", path + ":3"},
		"cidr":            {"10.9.0.0/16", path + ":4"},
		"default_memory":  {"512MiB", path + ":6"},
		"default_vcpus":   {"4", "BANGER_DEFAULT_VCPUS"},
		"web_listen_addr": {"", "BANGER_WEB_LISTEN_ADDR"},
		"log_level":       {"error", "flag"},
		"default_dns":     {"192.0.2.1,[2001:db8::1]:54", "flag"},
		"default_disk":    {"20GiB", "default"},
		"catalogs":        {"/srv/a.json,https://b.example/c.json", path + ":8"},
	}
	for _, v := range c.Values() {
		if w, ok := want[v.Key]; ok && w != [2]string{v.Value, v.Origin} {
			t.Errorf("%s is %q from %s, want %v", v.Key, v.Value, v.Origin, w)
		}
	}
	if c.VCPUs != 4 || c.Bridge.String() != "10.9.0.1/16" || len(c.Upstreams) != 2 || c.Upstreams[1].Port() != 54 {
		t.Errorf("typed values are wrong: %+v", c)
	}
}

func TestErrorsNameTheirPlaceAndTheCure(t *testing.T) {
	tests := []struct {
		name, file string
		env, flags map[string]string
		message    string // FILE stands for the file's path
		hint       string
	}{
		{"misspelt", "vmm = 'auto'\nbridge_nmae = 'x'\n", nil, nil, `FILE:2: "bridge_nmae" is not a setting`, `did you mean "bridge_name"?`},
		{"other program's key", "\nsomething_else = 1\n", nil, nil, `FILE:2: "something_else" is not a setting`, "the settings are: "},
		{"table", "vmm = 'auto'\n\n[network]\nbridge_name = 'x'\n", nil, nil, `FILE:3: "network" is not a setting`, ""},
		{"dotted", "network.bridge = 'x'\n", nil, nil, `FILE:1: "network.bridge" is not a setting`, ""},
		{"syntax", "vmm = auto\n", nil, nil, "FILE:1:", "TOML"},
		{"twice", "vmm = 'auto'\nvmm = 'fcqemu'\n", nil, nil, "FILE:2:", "TOML"},
		{"vmm", "vmm = 'firecraker'\n", nil, nil, `FILE:1: vmm = "firecraker": must be one of auto, firecracker, fcqemu; did you mean "firecracker"?`, "config show"},
		{"quoted number", "tap_pool_size = '4'\n", nil, nil, "FILE:1: tap_pool_size", ""},
		{"number for a text", "default_image_name = 4\n", nil, nil, "must be a text in quotes", ""},
		{"negative", "tap_pool_size = -1\n", nil, nil, "must be a number from 0 to 250", ""},
		{"boolean", "default_vcpus = true\n", nil, nil, "must be a number", ""},
		{"no vcpus", "default_vcpus = 0\n", nil, nil, "must be a number from 1 to 32", ""},
		{"size", "default_memory = '2 lots'\n", nil, nil, `"2 lots" is not a size`, ""},
		{"small memory", "default_memory = '1M'\n", nil, nil, "must be at least 128MiB", ""},
		{"catalogs as a text", "catalogs = '/a.json'\n", nil, nil, "must be a list", ""},
		{"catalogs of numbers", "catalogs = [1]\n", nil, nil, "must be a list of texts", ""},
		{"a catalog of no place", "catalogs = ['a.json']\n", nil, nil, "must be absolute paths or addresses", ""},
		{"a catalog twice", "catalogs = ['/a', '/a']\n", nil, nil, "names /a twice", ""},
		{"relative path", "ssh_key_path = '~/key'\n", nil, nil, "must be an absolute path", ""},
		{"long bridge", "bridge_name = 'a-very-long-bridge-name'\n", nil, nil, "must be an interface name", ""},
		{"bridge outside", "bridge_ip = '10.0.0.1'\ncidr = '10.1.0.0/24'\n", nil, nil, "cidr = \"10.1.0.0/24\": must contain bridge_ip, which is 10.0.0.1", ""},
		{"network's own address", "bridge_ip = '172.16.0.0'\n", nil, nil, "must be an address of a host", ""},
		{"broadcast address", "bridge_ip = '172.16.0.255'\n", nil, nil, "must be an address of a host", ""},
		{"IPv6 bridge", "bridge_ip = 'fd00::1'\n", nil, nil, "must be an IPv4 address", ""},
		{"tiny network", "cidr = '172.16.0.0/31'\n", nil, nil, "between /16 and /30", ""},
		{"dns", "default_dns = 'ns.example'\n", nil, nil, "must be addresses", ""},
		{"mirror", "mirror = 'deb.example/debian'\n", nil, nil, "must be an http:// or https:// address", ""},
		{"listen", "web_listen_addr = '7777'\n", nil, nil, "must be host:port", ""},
		{"timeout", "boot_timeout = '90'\n", nil, nil, "must be a time", ""},
		{"credentials", "credential_sync = 'yes'\n", nil, nil, "FILE:1: credential_sync", ""},
		{"credential's key", "vmm = 'auto'\n[[credential_sync]]\nhost = '/a'\ngest = '/b'\n", nil, nil, "must have the texts host and guest", ""},
		{"credential's third key", "[[credential_sync]]\nhost = '/a'\nguest = '/b'\nmode = 3\n", nil, nil, `FILE:4: "credential_sync.mode" is not a setting`, ""},
		{"relative credential", "[[credential_sync]]\nhost = 'a'\nguest = '/b'\n", nil, nil, "paths that begin with / or ~/", ""},
		{"environment", "", map[string]string{"BANGER_VMM": "kvm"}, nil, `BANGER_VMM: vmm = "kvm": must be one of`, ""},
		{"flag", "", nil, map[string]string{"vm": "auto"}, `flag: "vm" is not a setting`, `did you mean "vmm"?`},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			_, path, err := load(t, c.file, c.env, c.flags)
			var wrong *config.Error
			if !errors.As(err, &wrong) {
				t.Fatalf("got %v, want a config.Error", err)
			}
			if want := strings.ReplaceAll(c.message, "FILE", path); !strings.Contains(wrong.Message, want) {
				t.Errorf("message %q lacks %q", wrong.Message, want)
			}
			if !strings.Contains(wrong.Hint, c.hint) || wrong.Hint == "" {
				t.Errorf("hint %q lacks %q", wrong.Hint, c.hint)
			}
		})
	}
}

func TestNamedFileMustBeThere(t *testing.T) {
	env := func(name string) string {
		return map[string]string{"HOME": "/home/u", "BANGER_CONFIG": "/nonexistent/c.toml"}[name]
	}
	if _, err := config.Load(config.Options{Getenv: env}); err == nil {
		t.Error("a missing BANGER_CONFIG was ignored")
	}
}

func TestPaths(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		uid  int
		want config.Paths
	}{
		{"plain user", map[string]string{"HOME": "/home/u"}, 1000, config.Paths{
			Config: "/home/u/.config/banger", Cache: "/home/u/.cache/banger", Data: "/home/u/.local/share/banger",
			State: "/home/u/.local/state/banger", Runtime: "/tmp/banger-1000"}},
		{"root", map[string]string{"HOME": "/root"}, 0, config.Paths{
			Config: "/root/.config/banger", Cache: "/root/.cache/banger", Data: "/root/.local/share/banger",
			State: "/root/.local/state/banger", Runtime: "/run/bangerd"}},
		{"XDG", map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "/c", "XDG_CACHE_HOME": "relative",
			"XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "/s", "XDG_RUNTIME_DIR": "/r"}, 5, config.Paths{
			Config: "/c/banger", Cache: "/h/.cache/banger", Data: "/d/banger", State: "/s/banger", Runtime: "/r/banger"}},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			got, err := config.FindPaths(func(name string) string { return c.env[name] }, c.uid)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParseMiB(t *testing.T) {
	for in, want := range map[string]int64{
		"2G": 2048, "512M": 512, "20GiB": 20480, "1.5g": 1536, "256": 256, "1T": 1 << 20, "1b": 1, "2 GB": 2048, "1537K": 2,
	} {
		if got, err := config.ParseMiB(in); err != nil || got != want {
			t.Errorf("ParseMiB(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "G", "2X", "-1G", "1..2G", "9999999T", "NaN", "0x10"} {
		if got, err := config.ParseMiB(in); err == nil {
			t.Errorf("ParseMiB(%q) = %d, want an error", in, got)
		}
	}
}

func TestParseArgs(t *testing.T) {
	got, err := config.ParseArgs([]string{"--set", "vmm=fcqemu", "--set=mirror=http://m/x=y"})
	if want := map[string]string{"vmm": "fcqemu", "mirror": "http://m/x=y"}; err != nil || !cmp.Equal(want, got) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, args := range [][]string{{"--set"}, {"--set", "vmm"}, {"vmm=auto"}, {"-x"}} {
		if got, err := config.ParseArgs(args); err == nil {
			t.Errorf("%v gives %v", args, got)
		}
	}
}

func TestCredentials(t *testing.T) {
	file := "[[credential_sync]]\nhost = '~/.netrc'\nguest = '~/.netrc'\n\n[[credential_sync]]\nhost = '/etc/token'\nguest = '/opt/token'\n"
	c, path, err := load(t, file, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	home := strings.TrimSuffix(path, "/.config/banger/config.toml")
	want := []config.Credential{{Host: home + "/.netrc", Guest: "/root/.netrc"}, {Host: "/etc/token", Guest: "/opt/token"}}
	if diff := cmp.Diff(want, c.Credentials); diff != "" || !c.CredentialSync || c.Home != home {
		t.Errorf("%+v: %s", c, diff)
	}
	again, _, err := load(t, "", map[string]string{"BANGER_CREDENTIAL_SYNC": "/etc/token:/opt/token"}, nil)
	if err != nil || len(again.Credentials) != 1 || again.Credentials[0] != want[1] {
		t.Errorf("%+v, %v", again, err)
	}
	for _, off := range []string{"credential_sync = false\n"} {
		if c, _, err := load(t, off, nil, nil); err != nil || c.CredentialSync {
			t.Errorf("%+v, %v", c, err)
		}
	}
}

func TestKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl-p,ctrl-q": "\x10\x11", "ctrl-a, d": "\x01d", "CTRL-[": "\x1b", "ctrl-@": "\x00", "none": "", "~,.": "~.",
	} {
		if got, err := config.ParseKeys(text); err != nil || string(got) != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "ctrl-", "ctrl-1", "ctrl-pq", "pq", "ctrl-p,", "é", "alt-x"} {
		if got, err := config.ParseKeys(text); err == nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "17": 17, "64K": 64 << 10, "1.5M": 3 << 19, "2GiB": 2 << 30} {
		if got, err := config.ParseBytes(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "M", "-1", "1x", "9999999T"} {
		if got, err := config.ParseBytes(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestAFileThatIsNamedAndIsNotThere(t *testing.T) {
	_, _, err := load(t, "", map[string]string{"BANGER_CONFIG": "/none.toml"}, nil)
	var told *config.Error
	if !errors.As(err, &told) || told.Message != "there is no config file /none.toml" || !strings.Contains(told.Hint, "BANGER_CONFIG") {
		t.Errorf("%#v", err)
	}
}

// One half of the guests' network is enough.
func TestTheNetworkFollowsWhatIsSet(t *testing.T) {
	for file, want := range map[string]string{
		"":                         "172.16.0.1/24",
		"cidr = '10.5.0.0/28'":     "10.5.0.1/28",
		"cidr = '10.5.0.9/24'":     "10.5.0.1/24",
		"cidr = '172.16.0.0/16'":   "172.16.0.1/16",
		"cidr = 28":                "172.16.0.1/28",
		"bridge_ip = '10.5.0.254'": "10.5.0.254/24",
		"bridge_ip = '172.16.3.1'": "172.16.3.1/24",
		"bridge_ip = '10.5.0.254'\ncidr = '10.5.0.0/16'": "10.5.0.254/16",
	} {
		c, _, err := load(t, file, nil, nil)
		if err != nil || c.Bridge.String() != want {
			t.Errorf("%q: %v, %v, not %s", file, c.Bridge, err, want)
		}
	}
}

// What follows a setting comes from where that is set.
func TestWhatFollowsHasAnOrigin(t *testing.T) {
	for file, want := range map[string][2]string{
		"":                         {"default", "default"},
		"bridge_ip = '10.5.0.254'": {"FILE:1", "FILE:1"},
		"cidr = '10.5.0.0/28'":     {"FILE:1", "FILE:1"},
		"cidr = '172.16.0.0/16'":   {"default", "FILE:1"}, // the default is in it
		"cidr = 28":                {"default", "FILE:1"},
		"bridge_ip = '10.5.0.254'\ncidr = '10.5.0.0/16'": {"FILE:1", "FILE:2"},
	} {
		c, path, err := load(t, file, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := [2]string{c.Origin("bridge_ip"), c.Origin("cidr")}
		for i := range want {
			want[i] = strings.Replace(want[i], "FILE", path, 1)
		}
		if got != want {
			t.Errorf("%q: the origins are %q, not %q", file, got, want)
		}
	}
}
