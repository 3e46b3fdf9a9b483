package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/debian/archivetest"
	"github.com/banger-vm/banger/internal/kernel/depmod"
	"github.com/banger-vm/banger/internal/progress"
)

// elf64 is the least ELF file that a loader takes: a header and one segment of
// notes.
func elf64(notes []byte) []byte {
	const header, programHeader = 64, 56
	b := make([]byte, header+programHeader)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[16:], 2)      // ET_EXEC
	le.PutUint16(b[18:], 62)     // EM_X86_64
	le.PutUint32(b[20:], 1)      // version
	le.PutUint64(b[32:], header) // program headers
	le.PutUint16(b[52:], header)
	le.PutUint16(b[54:], programHeader)
	le.PutUint16(b[56:], 1)
	p := b[header:]
	le.PutUint32(p[0:], 4) // PT_NOTE
	le.PutUint64(p[8:], header+programHeader)
	le.PutUint64(p[32:], uint64(len(notes)))
	le.PutUint64(p[40:], uint64(len(notes)))
	return append(b, notes...)
}

func deb(t *testing.T, files map[string][]byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kernel.deb")
	put(t, path, string(archivetest.Deb(t, files)))
	return path
}

// kernelDeb is a package of a kernel as Debian builds them. Any ELF file will
// do for a module.
func kernelDeb(t *testing.T, edit func(map[string][]byte)) string {
	t.Helper()
	program := elf64(nil)
	const modules = "lib/modules/6.12.1-cloud/"
	vmlinux := elf64(note("Xen", xenNotePhysEntry, []byte{0x50, 0x08, 0, 1}))
	files := map[string][]byte{
		"boot/vmlinuz-6.12.1-cloud":                         bzImage(packings(t, vmlinux)["zstd"]),
		"boot/config-6.12.1-cloud":                          []byte("# CONFIG_HZ_100 is not set\nCONFIG_HZ_250=y\nCONFIG_HZ=250\n"),
		modules + "kernel/drivers/virtio/virtio_mmio.ko.gz": packings(t, program)["gzip"],
		modules + "kernel/drivers/block/virtio_blk.ko":      program,
		modules + "modules.order":                           []byte("kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/block/virtio_blk.ko\n"),
		modules + "modules.builtin":                         []byte("kernel/fs/ext4/ext4.ko\n"),
		modules + "modules.builtin.modinfo":                 []byte("ext4.alias=fs-ext4\x00"),
	}
	edit(files)
	return deb(t, files)
}

func assemble(t *testing.T, edit func(map[string][]byte)) (dir string, rec record, steps []string, err error) {
	t.Helper()
	s := &Store{AtStep: func(name string) { steps = append(steps, name) }}
	work := t.TempDir()
	if err = s.unpack(context.Background(), kernelDeb(t, edit), work, progress.Discard); err == nil {
		err = s.assemble(context.Background(), work, &rec, progress.Discard)
	}
	return filepath.Join(work, "kernel"), rec, steps, err
}

func TestAssembleMakesAllFilesOfAKernel(t *testing.T) {
	dir, rec, steps, err := assemble(t, func(map[string][]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	if rec.Release != "6.12.1-cloud" {
		t.Errorf("release is %q", rec.Release)
	}
	if rec.HZ != 250 {
		t.Errorf("its clock ticks %d times a second", rec.HZ)
	}
	want := []earlyModule{{File: "virtio_mmio.ko"}, {File: "virtio_blk.ko", Deps: []string{"virtio_mmio.ko"}}}
	if diff := cmp.Diff(want, rec.Early); diff != "" {
		t.Error(diff)
	}
	for _, step := range steps {
		if !slices.Contains(Steps(), step) {
			t.Errorf("step %q is not in the list of steps", step)
		}
	}
	vmlinux, err := os.ReadFile(filepath.Join(dir, vmlinuxFile))
	if err != nil || checkKernel(bytes.NewReader(vmlinux)) != nil {
		t.Errorf("the vmlinux is no kernel (%v)", err)
	}
	drive := make([]byte, 2048)
	file, err := os.Open(filepath.Join(dir, modulesFile))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadAt(drive, 0); err != nil || binary.LittleEndian.Uint16(drive[1024+0x38:]) != 0xef53 {
		t.Errorf("the modules drive is no ext4 (%v)", err)
	}
}

func TestAPackageMayBeWithoutTheKernelsConfiguration(t *testing.T) {
	_, rec, _, err := assemble(t, func(files map[string][]byte) { delete(files, "boot/config-6.12.1-cloud") })
	if err != nil || rec.HZ != 0 {
		t.Errorf("got %d ticks, %v", rec.HZ, err)
	}
}

func TestAssembleRefusesAPackageThatIsNoKernel(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(map[string][]byte)
		want string
	}{
		"no modules": {func(f map[string][]byte) {
			for name := range f {
				if strings.HasPrefix(name, "lib/") {
					delete(f, name)
				}
			}
		}, "cannot find the modules"},
		"no kernel":    {func(f map[string][]byte) { delete(f, "boot/vmlinuz-6.12.1-cloud") }, "cannot read the kernel"},
		"no PVH entry": {func(f map[string][]byte) { f["boot/vmlinuz-6.12.1-cloud"] = elf64(nil) }, "no PVH entry"},
		"a broken module": {func(f map[string][]byte) {
			f["lib/modules/6.12.1-cloud/kernel/x.ko"] = []byte("text")
		}, "cannot read module kernel/x.ko"},
		"a module packed in an unknown way": {func(f map[string][]byte) {
			f["lib/modules/6.12.1-cloud/kernel/x.ko.bz9"] = []byte("text")
		}, "unknown way"},
	} {
		if _, _, _, err := assemble(t, c.edit); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s gives %v, want %q", name, err, c.want)
		}
	}
}

func TestFreshDirRemovesWhatAKilledBuildLeft(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".mine.build")
	put(t, filepath.Join(dir, "tree", "junk"), "of a killed build")
	if err := freshDir(dir); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("%d entries are left, %v", len(entries), err)
	}
}

func TestNewestIsTheNewestSignedKernel(t *testing.T) {
	best, ok, err := newest([]debian.Package{
		{Name: "linux-image-6.12.9-cloud-amd64", Version: "6.12.9-1"},
		{Name: "linux-image-6.12.100-cloud-amd64", Version: "6.12.100-1"},
		{Name: "linux-image-6.12.117-cloud-amd64-dbg", Version: "6.12.117-1"},
		{Name: "linux-image-6.12.117-cloud-amd64-unsigned", Version: "6.12.117-1"},
	})
	if err != nil || !ok || best.Version != "6.12.100-1" {
		t.Errorf("newest is %+v, %v, %v", best, ok, err)
	}
	if _, ok, err := newest(nil); ok || err != nil {
		t.Errorf("of none: %v, %v", ok, err)
	}
}

func TestEarlyModulesComeAfterTheirTransport(t *testing.T) {
	tree := depmod.NewTree([]*depmod.Module{
		{Path: "kernel/drivers/block/virtio_blk.ko"},
		{Path: "kernel/drivers/virtio/virtio_mmio.ko"},
	}, "")
	var got []string
	for _, m := range pickEarly(tree) {
		got = append(got, m.Name())
	}
	if !slices.Equal(got, []string{"virtio_mmio", "virtio_blk"}) {
		t.Errorf("order is %v", got)
	}
}

// A second builder waits for the first, or gives up when its caller does.
func TestTheLockExcludesAndCanBeGivenUp(t *testing.T) {
	s := &Store{Dir: t.TempDir()}
	unlock, err := s.lock(context.Background(), "mine", progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	waits := func(progress.Event) { cancel() }
	if _, err := s.lock(ctx, "mine", waits); !errors.Is(err, context.Canceled) {
		t.Errorf("a second lock gives %v", err)
	}
	unlock()
	again, err := s.lock(context.Background(), "mine", progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
