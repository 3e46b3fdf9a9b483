package kernel

import (
	"context"
	"debug/elf"
	"os"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/debian/archivetest"
	"github.com/banger-vm/banger/internal/killtest"
	"github.com/banger-vm/banger/internal/progress"
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

// making is a way to make a kernel in a store.
type making func(ctx context.Context) (Kernel, error)

// killAtEveryStep is [killtest.EveryStep] for a kernel of that name.
func killAtEveryStep(t *testing.T, name string, steps []string, arrange func() []string, open func(args []string) (*Store, making)) Kernel {
	t.Helper()
	return killtest.EveryStep(t, steps, arrange, func(args []string) killtest.Work[Kernel] {
		s, make := open(args)
		return killtest.Work[Kernel]{
			Make:    make,
			AtStep:  func(call func(string)) { s.AtStep = call },
			Missing: func(why string) { isMissing(t, s, name, why) },
			Whole: func(kernel Kernel) {
				for _, file := range []string{kernel.Vmlinux, kernel.Modules} {
					if info, err := os.Stat(file); err != nil || info.Size() == 0 {
						t.Errorf("%s: %v", file, err)
					}
				}
				nothingUnfinished(t, s, name)
				if err := s.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

func isMissing(t *testing.T, s *Store, name, why string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.Dir, name)); err == nil {
		t.Fatalf("%s: there is a kernel", why)
	}
}

func TestKillAtEveryStepOfABuild(t *testing.T) {
	const name = "generic-6.12"
	k := killAtEveryStep(t, name, Steps(), func() []string {
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
		return []string{home, archive.URL}
	}, func(args []string) (*Store, making) {
		s := storeAt(t, args[0], args[1])
		return s, func(ctx context.Context) (Kernel, error) { return s.Ensure(ctx, name, progress.Discard) }
	})
	if k.Version != "6.12.1-1" || k.Release != "6.12.1-cloud" || k.Initramfs == "" {
		t.Errorf("the kernel is %+v", k)
	}
}

func TestKillAtEveryStepOfAnImport(t *testing.T) {
	killAtEveryStep(t, "mine", ImportSteps(), func() []string {
		home := t.TempDir()
		put(t, filepath.Join(home, "vmlinux"), string(fakeVmlinux(elf.EM_X86_64, whole...)))
		put(t, filepath.Join(home, "modules", testRelease, "modules.order"), "")
		return []string{home}
	}, func(args []string) (*Store, making) {
		s := &Store{Dir: filepath.Join(args[0], "kernels")}
		files := Files{Vmlinux: filepath.Join(args[0], "vmlinux"), Modules: filepath.Join(args[0], "modules")}
		return s, func(ctx context.Context) (Kernel, error) { return s.Import(ctx, "mine", files, progress.Discard) }
	})
}

// nothingUnfinished looks what is in a store beside its kernel and the kernel's
// lock.
func nothingUnfinished(t *testing.T, s *Store, name string) {
	t.Helper()
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != name && e.Name() != "."+name+".lock" {
			t.Errorf("%s is left", e.Name())
		}
	}
}
