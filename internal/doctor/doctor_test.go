package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/doctor"
	"github.com/banger-vm/banger/internal/vmm"
)

// host is a machine on which everything is as it should be; tests break it.
type host struct {
	missing  []string // programs that are not there
	uid      int
	flags    string
	tap, nft error
	forward  string
	readOnly bool
	free     uint64
	links    []doctor.Link
	meminfo  string
	taken    string // a device of the bridge's name: "bridge" or "other"
}

func good() *host {
	return &host{flags: "vmx", forward: "1", free: 50 << 30, meminfo: "MemTotal: 9 kB\nMemAvailable:   8000000 kB\n"}
}

func (h *host) lookPath(name string) (string, error) {
	if slices.Contains(h.missing, filepath.Base(name)) {
		return "", fmt.Errorf("%s: not found", name)
	}
	return filepath.Join("/usr/bin", filepath.Base(name)), nil
}

func (h *host) run(t *testing.T) api.Doctor {
	t.Helper()
	cfg, err := config.Load(config.Options{Getenv: func(name string) string { return map[string]string{"HOME": "/home/u"}[name] }})
	if err != nil {
		t.Fatal(err)
	}
	return doctor.Run(t.Context(), doctor.Options{Config: cfg, Companions: "/usr/lib/banger", Host: doctor.Host{
		VMM: vmm.Host{LookPath: h.lookPath, OpenKVM: func() error { return nil }, Arch: "amd64",
			Processor: func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("flags : " + h.flags + "\n")), nil
			}},
		UID:      h.uid,
		LookPath: h.lookPath,
		Output: func(_ context.Context, path string, _ ...string) ([]byte, error) {
			return []byte(filepath.Base(path) + " 1.0\nmore\n"), nil
		},
		ReadFile: func(path string) ([]byte, error) {
			return []byte(map[string]string{"/proc/meminfo": h.meminfo, "/proc/sys/net/ipv4/ip_forward": h.forward + "\n"}[path]), nil
		},
		ReadDir: func(path string) ([]fs.DirEntry, error) {
			if h.taken == "" || (h.taken == "other" && strings.HasSuffix(path, "/bridge")) {
				return nil, os.ErrNotExist
			}
			return nil, nil
		},
		Writable:   func(string) bool { return !h.readOnly },
		Free:       h.freeAt,
		MakeTap:    func() error { return h.tap },
		ListTables: func() error { return h.nft },
		Addresses:  func() ([]doctor.Link, error) { return h.links, nil },
	}})
}

func (h *host) freeAt(path string) (bytes, device uint64, err error) {
	if path != "/home" {
		return 0, 0, os.ErrNotExist
	}
	return h.free, 1, nil
}

func TestAGoodHost(t *testing.T) {
	d := good().run(t)
	if !d.OK {
		t.Errorf("not OK: %+v", d.Findings)
	}
	for _, f := range d.Findings {
		if f.Level != api.LevelOK {
			t.Errorf("finding %+v", f)
		}
	}
}

func TestWhatIsInTheWay(t *testing.T) {
	tests := []struct {
		name         string
		spoil        func(*host)
		check        string
		level        api.Level
		detail, hint string
	}{
		{"not root", func(h *host) { h.uid = 1000 }, "user", api.LevelError, "not run as root", "sudo"},
		{"no virtualization", func(h *host) { h.flags = "fpu" }, "virtualization", api.LevelInfo, "neither vmx nor svm", "only slower"},
		{"no qemu where none is needed", func(h *host) { h.missing = []string{"qemu-system-x86_64"} }, "virtualization", api.LevelOK, "firecracker", ""},
		{"no qemu", func(h *host) { h.missing = []string{"qemu-system-x86_64", "firecracker"} }, "qemu-system-x86_64", api.LevelError, "not found", "apt-get install --no-install-recommends qemu-system-x86"},
		{"no mke2fs on Arch", func(h *host) { h.missing = []string{"mke2fs", "apt-get", "dnf"} }, "mke2fs", api.LevelError, "not found", "pacman -S e2fsprogs"},
		{"no ssh", func(h *host) { h.missing = []string{"ssh"} }, "ssh", api.LevelWarning, "not found", "openssh"},
		{"no companion", func(h *host) { h.missing = []string{"banger-init"} }, "companions", api.LevelError, "lacks banger-init", "make install"},
		{"no VMM at all", func(h *host) { h.missing = []string{"fcqemu", "firecracker"} }, "virtualization", api.LevelError, "cannot find", "make install"},
		{"no tun", func(h *host) { h.tap = os.ErrNotExist }, "network devices", api.LevelError, "no tap", "modprobe tun"},
		{"no rights", func(h *host) { h.tap = os.ErrPermission }, "network devices", api.LevelError, "no tap", "NET_ADMIN"},
		{"no nftables", func(h *host) { h.nft = errors.New("operation not supported") }, "nftables", api.LevelError, "not supported", "nf_tables"},
		{"bridge taken", func(h *host) { h.taken = "other" }, "bridge", api.LevelError, "is no bridge", "bridge_name"},
		{"bridge up", func(h *host) { h.taken = "bridge" }, "bridge", api.LevelOK, "is up", ""},
		{"no forwarding", func(h *host) { h.forward = "0" }, "sysctl", api.LevelInfo, "banger sets it", ""},
		{"fixed forwarding", func(h *host) { h.forward, h.readOnly = "0", true }, "sysctl", api.LevelWarning, "can't be changed", "sysctl -w"},
		{"overlap", func(h *host) { h.links = []doctor.Link{{Name: "eth0", Addr: netip.MustParsePrefix("172.16.0.0/12")}} }, "addresses", api.LevelWarning, "eth0 overlaps with", "bridge_ip"},
		{"own bridge", func(h *host) {
			h.links = []doctor.Link{{Name: "banger0", Addr: netip.MustParsePrefix("172.16.0.0/24")}}
		}, "addresses", api.LevelOK, "", ""},
		{"little memory", func(h *host) { h.meminfo = "MemAvailable: 1000000 kB\n" }, "memory", api.LevelWarning, "976 MiB", "default_memory"},
		{"little disk", func(h *host) { h.free = 4 << 30 }, "disk space", api.LevelWarning, "4.0 GiB free", "make room"},
		{"no disk", func(h *host) { h.free = 1 << 30 }, "disk space", api.LevelError, "1.0 GiB free", "vm prune"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			h := good()
			c.spoil(h)
			d := h.run(t)
			i := slices.IndexFunc(d.Findings, func(f api.Finding) bool { return f.Check == c.check })
			if i < 0 {
				t.Fatalf("no finding of %q in %+v", c.check, d.Findings)
			}
			f := d.Findings[i]
			if f.Level != c.level || !strings.Contains(f.Detail, c.detail) || !strings.Contains(f.Hint, c.hint) {
				t.Errorf("got %+v", f)
			}
			if d.OK != (c.level != api.LevelError) {
				t.Errorf("OK is %v beside %s", d.OK, c.level)
			}
		})
	}
}
