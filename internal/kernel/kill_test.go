package kernel

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/debian/archivetest"
	"github.com/banger-vm/banger/internal/progress"
)

// The environment that makes this test a build which kills itself at a step.
const (
	killAtVar = "BANGER_TEST_KILL_AT"
	homeVar   = "BANGER_TEST_HOME"
	mirrorVar = "BANGER_TEST_MIRROR"
)

// storeAt is a store below home that builds from a mirror whose key is there.
func storeAt(t *testing.T, home, mirror string) *Store {
	t.Helper()
	keyring, err := os.ReadFile(filepath.Join(home, "keyring"))
	if err != nil {
		t.Fatal(err)
	}
	return &Store{
		Dir: filepath.Join(home, "kernels"), Init: filepath.Join(home, "init"), Agent: filepath.Join(home, "agent"),
		Debian: debian.Options{
			Cache: filepath.Join(home, "cache"), Mirror: mirror, SecurityMirror: mirror,
			AptDir: filepath.Join(home, "none"), Arch: "amd64", Keyring: keyring,
		},
	}
}

// TestKillAtEveryStepOfABuild kills the builder of a kernel at each step by
// name. The next build of the same store, which goes on over all that the killed
// ones left, gives a whole kernel, and nothing is left beside it.
func TestKillAtEveryStepOfABuild(t *testing.T) {
	const name = "generic-6.12"
	if step := os.Getenv(killAtVar); step != "" {
		s := storeAt(t, os.Getenv(homeVar), os.Getenv(mirrorVar))
		s.AtStep = func(at string) {
			if at == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}
		_, err := s.Ensure(t.Context(), name, progress.Discard)
		t.Fatalf("it was not killed: %v", err)
	}
	archive, home := archivetest.New(t), t.TempDir()
	deb, err := os.ReadFile(kernelDeb(t, func(map[string][]byte) {}))
	if err != nil {
		t.Fatal(err)
	}
	archive.Publish(t, "bookworm")
	archive.Publish(t, "bookworm-security", archivetest.Package{Name: "linux-image-6.12.1-cloud-amd64", Version: "6.12.1-1", Deb: deb})
	put(t, filepath.Join(home, "keyring"), string(archive.Keyring))
	for _, program := range []string{"init", "agent"} {
		put(t, filepath.Join(home, program), string(elf64(nil)))
	}
	for _, step := range Steps() {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), killAtVar+"="+step, homeVar+"="+home, mirrorVar+"="+archive.URL)
		out, err := cmd.CombinedOutput()
		if fmt.Sprint(err) != "signal: killed" {
			t.Fatalf("at %q: %v\n%s", step, err, out)
		}
		if _, err := os.Stat(filepath.Join(home, "kernels", name)); err == nil {
			t.Fatalf("at %q: there is a kernel", step)
		}
	}
	s := storeAt(t, home, archive.URL)
	var steps []string
	s.AtStep = func(step string) { steps = append(steps, step) }
	k, err := s.Ensure(t.Context(), name, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps, Steps()) {
		t.Errorf("a build has the steps %q, the list has %q", steps, Steps())
	}
	if k.Version != "6.12.1-1" || k.Release != "6.12.1-cloud" {
		t.Errorf("the kernel is %+v", k)
	}
	for _, file := range []string{k.Vmlinux, k.Initramfs, k.Modules} {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	if left := unfinished(t, s.Dir, name); len(left) > 0 {
		t.Errorf("left of the killed builds: %q", left)
	}
}

// TestKillAtEveryStepOfAnImport kills an import at each step by name. There is no
// kernel then; the same again makes a whole one, and nothing is left beside it.
func TestKillAtEveryStepOfAnImport(t *testing.T) {
	const name = "mine"
	take := func(s *Store, home string) (Kernel, error) {
		return s.Import(t.Context(), name, Files{Vmlinux: filepath.Join(home, "vmlinux"), Modules: filepath.Join(home, "modules")}, progress.Discard)
	}
	if step := os.Getenv(killAtVar); step != "" {
		home := os.Getenv(homeVar)
		s := &Store{Dir: filepath.Join(home, "kernels"), AtStep: func(at string) {
			if at == step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}
		}}
		_, err := take(s, home)
		t.Fatalf("it was not killed: %v", err)
	}
	home := t.TempDir()
	put(t, filepath.Join(home, "vmlinux"), string(fakeVmlinux(elf.EM_X86_64, whole...)))
	put(t, filepath.Join(home, "modules", testRelease, "modules.order"), "")
	var steps []string
	s := &Store{Dir: filepath.Join(home, "kernels"), AtStep: func(step string) { steps = append(steps, step) }}
	for _, step := range ImportSteps() {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), killAtVar+"="+step, homeVar+"="+home)
		out, err := cmd.CombinedOutput()
		if fmt.Sprint(err) != "signal: killed" {
			t.Fatalf("at %q: %v\n%s", step, err, out)
		}
		if _, err := s.Show(name); err == nil {
			t.Fatalf("at %q: there is a kernel", step)
		}
	}
	k, err := take(s, home)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(steps, ImportSteps()) {
		t.Errorf("an import has the steps %q, the list has %q", steps, ImportSteps())
	}
	for _, file := range []string{k.Vmlinux, k.Modules} {
		if info, err := os.Stat(file); err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", file, err)
		}
	}
	if left := unfinished(t, s.Dir, name); len(left) > 0 {
		t.Errorf("left of the killed imports: %q", left)
	}
}

// unfinished gives what is in a store beside its kernel and the kernel's lock.
func unfinished(t *testing.T, dir, name string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		if e.Name() != name && e.Name() != "."+name+".lock" {
			left = append(left, e.Name())
		}
	}
	return left
}
