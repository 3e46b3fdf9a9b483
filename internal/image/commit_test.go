package image

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/progress"
)

// used makes a filesystem as a VM leaves it: with an identity, a credential, and
// the remains of files that were deleted.
func used(t *testing.T) string {
	t.Helper()
	tree, path := t.TempDir(), filepath.Join(t.TempDir(), "used.ext4")
	for name, text := range map[string]string{
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n", "etc/hostname": "secretname\n",
		"etc/hosts":                    "127.0.0.1 localhost\n" + blockBegin + "127.0.1.1 secretname\n" + blockEnd + "10.0.0.1 mine\n",
		"etc/ssh/ssh_host_ed25519_key": "PRIVATE-HOST-KEY " + strings.Repeat("x", 5000), "etc/ssh/sshd_config": "kept\n",
		"etc/environment":                "A=1\n" + blockBegin + "https_proxy=http://user:SECRET-PROXY@x\n" + blockEnd,
		"root/.ssh/authorized_keys":      blockBegin + "ssh-ed25519 SECRET-KEY\n" + blockEnd,
		"root/.claude/.credentials.json": "SECRET-TOKEN", "root/work": "kept too\n",
		"var/log/journal/0123456789abcdef/system.journal": "SECRET-JOURNAL",
		"deleted": "SECRET-DELETED",
	} {
		at := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := (ext4.Mke2fs{}).Build(t.Context(), tree, path, ext4.Options{Size: 256 << 20}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/sbin/debugfs", "-w", "-R", "rm /deleted", path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// commitOf makes an image of the disk in a file.
func commitOf(rootfs string) Commit {
	return Commit{
		Name: "mine", Of: "box", Kernel: "k", UID: 720001, Base: Image{Name: "base", MaxDisk: 1 << 40}, Secrets: []string{"/root/.claude/.credentials.json", "/root/.pi/agent/auth.json"},
		Merge: func(_ context.Context, path string) error {
			data, err := os.ReadFile(rootfs)
			if err != nil {
				return err
			}
			return os.WriteFile(path, data, 0o600)
		},
	}
}

func TestCommit(t *testing.T) {
	s, c := newStore(t), commitOf(used(t))
	got, err := s.Commit(t.Context(), c, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got.Source != SourceCommitted || !got.Managed || got.Kernel != "k" || got.MaxDisk != 1<<40 {
		t.Errorf("got %+v", got)
	}
	data, err := os.ReadFile(got.Rootfs)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"SECRET-", "PRIVATE-HOST-KEY", "secretname", "0123456789abcdef0123"} {
		if at := bytes.Index(data, []byte(secret)); at >= 0 {
			t.Errorf("%q is in the image, at %d: %q", secret, at, data[max(0, at-20):at+40])
		}
	}
	for _, kept := range []string{"kept too", "127.0.0.1 localhost\n10.0.0.1 mine"} {
		if !bytes.Contains(data, []byte(kept)) {
			t.Errorf("%q is lost", kept)
		}
	}
	if out, err := exec.Command("/sbin/e2fsck", "-fn", got.Rootfs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	tools := ext4.Tools{UID: os.Getuid()}
	if names, err := tools.List(t.Context(), copied(t, got.Rootfs), "/etc"); err != nil || !strings.Contains(strings.Join(names, " "), "machine-id") {
		t.Errorf("/etc has %v, %v", names, err)
	}
	if _, err := s.Commit(t.Context(), c, progress.Discard); kindOf(err) != api.KindExists {
		t.Errorf("twice: %v", err)
	}
}

// copied is the file where it may be opened for writing.
func copied(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestKillAtEveryStepOfACommit(t *testing.T) {
	killAtEveryStep(t, "mine", CommitSteps(), func() []string {
		return []string{newStore(t).Dir, used(t)}
	}, func(args []string) (*Store, making) {
		s := &Store{Dir: args[0]}
		return s, func(ctx context.Context) (Image, error) { return s.Commit(ctx, commitOf(args[1]), progress.Discard) }
	})
}

func TestFailedCommitLeavesNothing(t *testing.T) {
	s := newStore(t)
	text := func(_ context.Context, path string) error {
		return os.WriteFile(path, bytes.Repeat([]byte("no filesystem"), 1000), 0o600)
	}
	if _, err := s.Commit(t.Context(), Commit{Name: "mine", UID: os.Getuid(), Merge: text}, progress.Discard); err == nil {
		t.Error("it passes")
	}
	empty(t, s)
}

func TestPrunable(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"debian-bookworm", "debian-trixie", "mark"} {
		manage(t, s, name)
	}
	got, err := s.Prunable(func(name string) bool { return name == "debian-bookworm" })
	if err != nil || len(got) != 1 || got[0].Name != "debian-trixie" {
		t.Fatalf("got %+v, %v", got, err)
	}
	if freed := Freed(got); freed != got[0].Used || freed == 0 {
		t.Errorf("it frees %d of %d", freed, got[0].Used)
	}
	if _, err := s.Tag(t.Context(), "debian-trixie", "second"); err != nil {
		t.Fatal(err)
	}
	if freed := Freed(got); freed != 0 {
		t.Errorf("with a second name it frees %d", freed)
	}
}

func TestRenewable(t *testing.T) {
	for image, want := range map[*Image]bool{
		{Source: SourceCatalog}: true,
		{Source: SourceBundle}:  true,
		{Source: SourceOCI, Reference: "registry.example.test/a:1"}:                 true,
		{Source: SourceOCI, Reference: "registry.example.test/a:1", FromFile: true}: false,
		{Source: SourceCommitted}:  false,
		{Source: SourceRegistered}: false,
	} {
		if got := image.renewable(); got != want {
			t.Errorf("%+v: %v", *image, got)
		}
	}
}

// TestPruneCaches prunes the layers and the packages that are kept.
func TestPruneCaches(t *testing.T) {
	s := newStore(t)
	s.Cache = t.TempDir()
	for _, dir := range []string{filepath.Join(s.layerDir(), "sha256"), filepath.Join(s.packageDir(), "debs"), filepath.Join(s.packageDir(), "lists")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, 8192), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, prune := range map[string]struct {
		tell, do func() (int64, error)
		want     int64
	}{
		"layers":   {s.Layers, s.PruneLayers, 8192},
		"packages": {s.Packages, s.PrunePackages, 2 * 8192},
	} {
		if took, err := prune.tell(); took != prune.want || err != nil {
			t.Errorf("%s told: %d, %v", name, took, err)
		}
		if took, err := prune.do(); took != prune.want || err != nil {
			t.Errorf("%s pruned: %d, %v", name, took, err)
		}
		if took, err := prune.tell(); took != 0 || err != nil {
			t.Errorf("%s left: %d, %v", name, took, err)
		}
	}
}
