package doctor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/doctor"
	"github.com/banger-vm/banger/internal/vmm"
)

// host is a machine on which everything is as it should be; tests break it.
type host struct {
	home     string
	missing  []string // programs that are not there
	uid      int
	flags    string
	free     uint64
	meminfo  string
	subuid   string
	write    error
	adrift   bool // nothing keeps its clock right
	user     string
	network  []api.Finding
	mends    []string
	mendFail error
	ended    []string // directories whose programs were ended
}

func good(t *testing.T) *host {
	return &host{home: t.TempDir(), flags: "vmx", free: 50 << 30, meminfo: "MemTotal: 9 kB\nMemAvailable:   8000000 kB\n",
		user: "alice", subuid: "alice:100000:65536\n", network: []api.Finding{{Check: "firewalls", Level: api.LevelOK}}}
}

func (h *host) lookPath(name string) (string, error) {
	if slices.Contains(h.missing, filepath.Base(name)) {
		return "", fmt.Errorf("%s: not found", name)
	}
	return filepath.Join("/usr/bin", filepath.Base(name)), nil
}

func (h *host) options(t *testing.T) doctor.Options {
	t.Helper()
	cfg, err := config.Load(config.Options{Getenv: func(name string) string {
		return map[string]string{"HOME": h.home, "XDG_RUNTIME_DIR": filepath.Join(h.home, "run")}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	return doctor.Options{
		Config: cfg, Companions: "/usr/lib/banger", UIDBase: 720000,
		Network:     func() []api.Finding { return h.network },
		MendNetwork: func(context.Context) ([]string, error) { return h.mends, h.mendFail },
		EndIn:       func(_ context.Context, dir string) error { h.ended = append(h.ended, dir); return nil },
		Host: doctor.Host{
			VMM: vmm.Host{LookPath: h.lookPath, OpenKVM: func() error { return nil }, Arch: "amd64",
				Processor: func() (io.ReadCloser, error) {
					return io.NopCloser(strings.NewReader("flags : " + h.flags + "\n")), nil
				}},
			UID:      h.uid,
			User:     h.user,
			LookPath: h.lookPath,
			Output: func(_ context.Context, path string, _ ...string) ([]byte, error) {
				return []byte(filepath.Base(path) + " 1.0\nmore\n"), nil
			},
			ReadFile: func(path string) ([]byte, error) {
				return []byte(map[string]string{"/proc/meminfo": h.meminfo, "/etc/subuid": h.subuid, "/etc/subgid": h.subuid}[path]), nil
			},
			Free:         h.freeAt,
			Write:        func(string) error { return h.write },
			Synchronized: func() (bool, error) { return !h.adrift, nil },
		},
	}
}

func (h *host) freeAt(path string) (bytes, device uint64, err error) {
	if path != h.home {
		return 0, 0, os.ErrNotExist
	}
	return h.free, 1, nil
}

// make makes a file with all its directories below the home.
func (h *host) make(t *testing.T, path string) string {
	t.Helper()
	path = filepath.Join(h.home, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAGoodHost(t *testing.T) {
	d := doctor.Run(t.Context(), good(t).options(t))
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
		{"no rights", func(h *host) {
			h.network = []api.Finding{{Check: "network rights", Level: api.LevelError, Detail: "may not change", Hint: "as root"}}
		}, "network rights", api.LevelError, "may not change", "as root"},
		{"read-only", func(h *host) { h.write = &os.PathError{Op: "open", Path: "/x", Err: unix.EROFS} }, "directories", api.LevelError, ".local/state/banger: read-only file system", "dmesg"},
		{"no inode", func(h *host) { h.write = &os.PathError{Op: "open", Path: "/x", Err: unix.ENOSPC} }, "directories", api.LevelError, "no space left", "df -i"},
		{"not made yet", func(h *host) { h.write = os.ErrNotExist }, "directories", api.LevelOK, "", ""},
		{"clock adrift", func(h *host) { h.adrift = true }, "clock", api.LevelInfo, "nothing keeps it right", "set-ntp"},
		{"no subordinate ids", func(h *host) { h.subuid = "bob:100000:65536\n" }, "subordinate ids", api.LevelInfo, "alice has none in /etc/subuid and /etc/subgid", ""},
		{"subordinate ids of VMMs", func(h *host) { h.subuid = "broken line\nbob:700000:65536\n" }, "subordinate ids", api.LevelWarning, "700000 to 765535 of bob", "usermod"},
		{"subordinate ids beyond VMMs", func(h *host) { h.subuid = "alice:720256:65536\nbob:654464:65536\n" }, "subordinate ids", api.LevelOK, "", ""},
		{"root itself", func(h *host) { h.user, h.subuid = "root", "" }, "subordinate ids", api.LevelOK, "root uses banger", ""},
		{"little memory", func(h *host) { h.meminfo = "MemAvailable: 1000000 kB\n" }, "memory", api.LevelWarning, "976 MiB", "default_memory"},
		{"little disk", func(h *host) { h.free = 4 << 30 }, "disk space", api.LevelWarning, "4.0 GiB free", "make room"},
		{"no disk", func(h *host) { h.free = 1 << 30 }, "disk space", api.LevelError, "1.0 GiB free", "vm prune"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			h := good(t)
			c.spoil(h)
			d := doctor.Run(t.Context(), h.options(t))
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

func find(t *testing.T, d api.Doctor, check string) []api.Finding {
	t.Helper()
	found := slices.DeleteFunc(slices.Clone(d.Findings), func(f api.Finding) bool { return f.Check != check })
	if len(found) == 0 {
		t.Fatalf("no finding of %q in %+v", check, d.Findings)
	}
	return found
}

func TestAClockThatIsBehind(t *testing.T) {
	h := good(t)
	record := h.make(t, ".local/state/banger/vms/00c0ffee/vm.json")
	if f := find(t, doctor.Run(t.Context(), h.options(t)), "clock")[0]; f.Level != api.LevelOK {
		t.Errorf("got %+v", f)
	}
	tomorrow := time.Now().Add(24 * time.Hour)
	if err := os.Chtimes(record, tomorrow, tomorrow); err != nil {
		t.Fatal(err)
	}
	f := find(t, doctor.Run(t.Context(), h.options(t)), "clock")[0]
	if f.Level != api.LevelWarning || !strings.Contains(f.Detail, record+" is of "+tomorrow.UTC().Format(time.DateTime)) || f.Hint == "" {
		t.Errorf("got %+v", f)
	}
}

func TestLeftoversAreFoundAndRemoved(t *testing.T) {
	h := good(t)
	owned := h.make(t, "run/banger/vm/00c0ffee/api.sock")
	h.make(t, ".local/state/banger/vms/00c0ffee/vm.json")
	orphan := filepath.Dir(h.make(t, "run/banger/vm/0badcafe/api.sock"))
	aside := filepath.Dir(h.make(t, ".local/state/banger/vms/deadbeef.set-aside-20260101T000000/vm.json"))
	found := find(t, doctor.Run(t.Context(), h.options(t)), "leftovers")
	if len(found) != 2 || !strings.Contains(found[0].Detail, orphan) || strings.Contains(found[0].Detail, "00c0ffee") ||
		!strings.Contains(found[0].Hint, "--fix") || !strings.Contains(found[1].Detail, aside) {
		t.Errorf("found %+v", found)
	}

	h.mends = []string{"switched forwarding on"}
	fixed := doctor.Fix(t.Context(), h.options(t))
	if want := []string{"removed " + orphan + ", which no VM owned", "switched forwarding on"}; !slices.Equal(fixed.Done, want) || len(fixed.Failed) > 0 {
		t.Errorf("fixed %+v, want %q", fixed, want)
	}
	if !slices.Equal(h.ended, []string{orphan}) {
		t.Errorf("ended what runs in %q", h.ended)
	}
	if _, err := os.Stat(orphan); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan is still there: %v", err)
	}
	for _, kept := range []string{owned, aside} {
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("what must stay is gone: %v", err)
		}
	}
	if found := find(t, fixed.Doctor, "leftovers"); len(found) != 1 || !strings.Contains(found[0].Detail, aside) {
		t.Errorf("afterwards found %+v", found)
	}
}

func TestAFailedFixIsTold(t *testing.T) {
	h := good(t)
	h.mends, h.mendFail = []string{"one thing"}, errors.New("cannot do the other")
	fixed := doctor.Fix(t.Context(), h.options(t))
	if !slices.Equal(fixed.Done, h.mends) || !slices.Equal(fixed.Failed, []string{"cannot do the other"}) || !fixed.Doctor.OK {
		t.Errorf("got %+v", fixed)
	}
}
