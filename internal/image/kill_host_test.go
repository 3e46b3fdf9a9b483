//go:build hosttest

package image

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/debian/archivetest"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

const homeVar, mirrorVar = killAt + "_HOME", killAt + "_MIRROR"

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

// TestKillAtEveryStepOfABuild kills the builder of an image at each step by name.
// The next build of the same store gives a whole image, and nothing is left
// beside it. dpkg is a program that does nothing: what is killed is the build.
func TestKillAtEveryStepOfABuild(t *testing.T) {
	if step := os.Getenv(killAt); step != "" {
		s := tinyStore(t, os.Getenv(homeVar), os.Getenv(mirrorVar))
		s.AtStep = func(at string) {
			if at == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		_, err := s.Ensure(t.Context(), "tiny", progress.Discard)
		t.Fatalf("it was not killed: %v", err)
	}
	archive, home := archivetest.New(t), t.TempDir()
	archive.Publish(t, "bookworm",
		archivetest.Package{Name: "dpkg", Version: "1", Fields: "Essential: yes\nPriority: required\n", Deb: archivetest.Deb(t, map[string][]byte{
			"usr/bin/dpkg": idleProgram(t), "etc/shadow": []byte("root:x:1::::::\n")})},
		archivetest.Package{Name: "more", Version: "1", Deb: archivetest.Deb(t, map[string][]byte{"usr/share/more": []byte("more")})})
	put(t, home, "keyring", string(archive.Keyring))
	s := tinyStore(t, home, archive.URL)
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range BuildSteps() {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), killAt+"="+step, homeVar+"="+home, mirrorVar+"="+archive.URL, cacheOfParent+"="+sharedCache())
		out, err := cmd.CombinedOutput()
		if fmt.Sprint(err) != "signal: killed" {
			t.Fatalf("at %q: %v\n%s", step, err, out)
		}
		if _, err := os.Stat(filepath.Join(s.Dir, "tiny")); err == nil {
			t.Fatalf("at %q: there is an image", step)
		}
		if left := unfinished(t, s); len(left) > 1 {
			t.Errorf("at %q: left %q, of more than one build", step, left)
		}
	}
	var steps []string
	s.AtStep = func(step string) { steps = append(steps, step) }
	i, err := s.Ensure(t.Context(), "tiny", progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps, BuildSteps()) {
		t.Errorf("a build has the steps %q, the list has %q", steps, BuildSteps())
	}
	if out, err := exec.Command("e2fsck", "-fn", i.Rootfs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if left := unfinished(t, s); len(left) > 0 {
		t.Errorf("left of the killed builds: %q", left)
	}
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
