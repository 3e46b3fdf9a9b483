//go:build hosttest

package image

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/debian/archivetest"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// tinyStore builds an image out of two packages of an archive on the loopback,
// by the steps of every image.
func tinyStore(t *testing.T, home, mirror string) *Store {
	t.Helper()
	keyring, err := os.ReadFile(filepath.Join(home, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	return &Store{
		Dir: filepath.Join(home, "images"), Cache: filepath.Join(home, "cache"),
		Debian:  debian.Options{Mirror: mirror, SecurityMirror: mirror, AptDir: filepath.Join(home, "none"), Arch: "amd64", Keyring: keyring},
		entries: []catalog.Entry{{Name: "tiny", Kernel: "k", BuildBytes: 1 << 20, Suites: []string{"bookworm"}, Packages: []string{"more"}}},
	}
}

// TestKillAtEveryStepOfABuild has a dpkg that does nothing: what is killed is the
// build.
func TestKillAtEveryStepOfABuild(t *testing.T) {
	killAtEveryStep(t, "tiny", BuildSteps(), func() []string {
		archive, home := archivetest.New(t), t.TempDir()
		archive.Publish(t, "bookworm",
			archivetest.Package{Name: "dpkg", Version: "1", Fields: "Essential: yes\nPriority: required\n", Deb: archivetest.Deb(t, map[string][]byte{
				"usr/bin/dpkg": idleProgram(t), "etc/shadow": []byte("root:x:1::::::\n")})},
			archivetest.Package{Name: "more", Version: "1", Deb: archivetest.Deb(t, map[string][]byte{"usr/share/more": []byte("more")})})
		put(t, home, "keyring", string(archive.Keyring))
		return []string{home, archive.URL}
	}, func(args []string) (*Store, making) {
		s := tinyStore(t, args[0], args[1])
		return s, func(ctx context.Context) (Image, error) { return s.Ensure(ctx, "tiny", progress.Discard) }
	})
}

// idleProgram is a static program that does nothing and goes well.
func idleProgram(t *testing.T) []byte {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "main.go", "package main\n\nfunc main() {}\n")
	cmd := exec.Command("go", "build", "-o", filepath.Join(dir, "idle"), filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build a program: %v\n%s", err, out)
	}
	program, err := os.ReadFile(filepath.Join(dir, "idle"))
	if err != nil {
		t.Fatal(err)
	}
	return program
}
