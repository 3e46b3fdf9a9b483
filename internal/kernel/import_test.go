package kernel

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/kernel/depmod"
	"github.com/banger-vm/banger/internal/progress"
)

const testRelease = "6.12.0-mine"

// fakeVmlinux is an ELF program for a processor with texts in it that a kernel
// has: enough for everything that looks at one and does not start it.
func fakeVmlinux(machine elf.Machine, texts ...string) []byte {
	var out bytes.Buffer
	text := strings.Join(append([]string{"Linux version " + testRelease + " (me@here) #1"}, texts...), "\x00") + "\x00"
	header := elf.Header64{
		Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: 1, Entry: 0x1000000, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	load := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: 120, Filesz: uint64(len(text)), Memsz: uint64(len(text))}
	_ = binary.Write(&out, binary.LittleEndian, header)
	_ = binary.Write(&out, binary.LittleEndian, load)
	out.WriteString(text)
	return out.Bytes()
}

// whole is what a kernel with everything built in says.
var whole = []string{
	"ACPI: Core revision", "Trying to unpack rootfs image as initramfs", "devtmpfs: initialized", "virtio-mmio", "virtio_blk", "EXT4-fs error",
	"vmw_vsock_virtio_transport", "virtio_console", "virtio_net", "ttyS", "device-mapper: x", "snapshot-origin",
}

func without(texts ...string) []string {
	return slices.DeleteFunc(slices.Clone(whole), func(s string) bool { return slices.Contains(texts, s) })
}

func withConfig(lines ...string) string {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	fmt.Fprintln(z, strings.Join(lines, "\n"))
	z.Close()
	return "IKCFG_ST" + packed.String() + "IKCFG_ED"
}

var fullConfig = []string{
	"CONFIG_ACPI=y", "CONFIG_BLK_DEV_INITRD=y", "CONFIG_DEVTMPFS=y", "CONFIG_VIRTIO_MMIO=y", "CONFIG_VIRTIO_BLK=y", "CONFIG_EXT4_FS=y",
	"CONFIG_VIRTIO_VSOCKETS=y", "CONFIG_VIRTIO_CONSOLE=y", "CONFIG_VIRTIO_NET=y", "CONFIG_SERIAL_8250_CONSOLE=y",
	"CONFIG_BLK_DEV_DM=y", "CONFIG_DM_SNAPSHOT=y", "CONFIG_DM_ZERO=y",
}

func TestSurvey(t *testing.T) {
	lacking := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(fullConfig), func(line string) bool {
			return slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(line, "CONFIG_"+n+"=") })
		})
	}
	empty := depmod.NewTree(nil, "")
	withModules := depmod.NewTree([]*depmod.Module{{Path: "kernel/dm-mod.ko"}, {Path: "kernel/dm-snapshot.ko"}, {Path: "kernel/dm-zero.ko"}, {Path: "kernel/virtio_blk.ko"}}, "")
	for name, test := range map[string]struct {
		texts    []string
		modules  *depmod.Tree
		builtin  string
		fatal    string // in the error
		missing  string // in what is missing
		unknown  string
		noMapper bool
	}{
		"all by its texts":            {texts: whole, modules: empty},
		"all by its configuration":    {texts: []string{withConfig(fullConfig...)}, modules: empty},
		"no device-mapper, by texts":  {texts: without("snapshot-origin"), modules: empty, missing: "no device-mapper", noMapper: true},
		"no device-mapper, by config": {texts: []string{withConfig(lacking("BLK_DEV_DM", "DM_SNAPSHOT", "DM_ZERO")...)}, modules: empty, missing: "no device-mapper", noMapper: true},
		"device-mapper as modules":    {texts: without("snapshot-origin", "device-mapper: x"), modules: withModules},
		"a module that is not there":  {texts: []string{withConfig(append(lacking("DM_ZERO"), "CONFIG_DM_ZERO=m")...)}, modules: empty, missing: "no device-mapper", noMapper: true},
		"no ext4, by config":          {texts: []string{withConfig(lacking("EXT4_FS")...)}, modules: empty, fatal: "it has no ext4: its disk can't be mounted"},
		"no ext4, by texts":           {texts: without("EXT4-fs error"), modules: empty, unknown: "ext4"},
		"ext4 in the list":            {texts: without("EXT4-fs error"), modules: withModules, builtin: "kernel/fs/ext4/ext4.ko kernel/virtio-mmio.ko", fatal: "neither virtio vsock"},
		"no link at all":              {texts: []string{withConfig(lacking("VIRTIO_VSOCKETS", "VIRTIO_CONSOLE")...)}, modules: empty, fatal: "neither virtio vsock nor a virtio console"},
		"no vsock":                    {texts: []string{withConfig(lacking("VIRTIO_VSOCKETS")...)}, modules: empty, missing: "it does not work on firecracker"},
		"no network":                  {texts: []string{withConfig(lacking("VIRTIO_NET")...)}, modules: empty, missing: "VMs have no network"},
		"no ACPI":                     {texts: []string{withConfig(lacking("ACPI")...)}, modules: empty, fatal: "it has no ACPI"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := newSurvey(fakeVmlinux(elf.EM_X86_64, test.texts...), test.modules, test.builtin).report()
			if test.fatal == "" && err != nil || test.fatal != "" && (err == nil || !strings.Contains(err.Error(), test.fatal)) {
				t.Errorf("error is %v", err)
			}
			if !strings.Contains(strings.Join(r.Missing, "\n"), test.missing) || test.missing == "" && test.fatal == "" && len(r.Missing) > 0 {
				t.Errorf("missing: %q", r.Missing)
			}
			if strings.Join(r.Unknown, ",") != test.unknown && test.fatal == "" {
				t.Errorf("unknown: %q", r.Unknown)
			}
			if r.NoDeviceMapper != test.noMapper && test.fatal == "" {
				t.Errorf("no device-mapper: %v", r.NoDeviceMapper)
			}
		})
	}
}

func emptyStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s := &Store{Dir: filepath.Join(dir, "kernels"), Init: filepath.Join(dir, "init"), Agent: filepath.Join(dir, "agent")}
	put(t, s.Init, "the init")
	put(t, s.Agent, "the agent")
	return s
}

func TestImport(t *testing.T) {
	s, vmlinux := emptyStore(t), filepath.Join(t.TempDir(), "vmlinux")
	put(t, vmlinux, string(fakeVmlinux(elf.EM_X86_64, without("snapshot-origin", "virtio_net")...)))
	var warned []string
	k, err := s.Import(t.Context(), "mine", Files{Vmlinux: vmlinux}, func(e progress.Event) {
		if e.Warning {
			warned = append(warned, e.Detail)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if k.Release != testRelease || k.Source != SourceImported || !k.NoDeviceMapper || !k.Local {
		t.Errorf("kernel is %+v", k)
	}
	if said := strings.Join(warned, "\n"); !strings.Contains(said, wholeCopies) || !strings.Contains(said, "no PVH entry") || !strings.Contains(said, "no --modules are given") {
		t.Errorf("it warned of %q", warned)
	}
	k = ensure(t, s, "mine")
	for _, path := range []string{k.Vmlinux, k.Modules, k.Initramfs} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Import(t.Context(), "mine", Files{Vmlinux: vmlinux}, progress.Discard); kindOf(err) != api.KindExists {
		t.Errorf("twice: %v", err)
	}
	if _, err := s.Pull(t.Context(), "mine", progress.Discard); kindOf(err) != api.KindBadRequest {
		t.Errorf("pull: %v", err)
	}
	if err := s.Delete(t.Context(), "mine"); err != nil {
		t.Error(err)
	}
	if _, err := s.Show("mine"); kindOf(err) != api.KindNotFound {
		t.Errorf("after delete: %v", err)
	}
	if err := s.Delete(t.Context(), "generic-6.12"); kindOf(err) != api.KindNotFound {
		t.Errorf("delete of what is in the catalog only: %v", err)
	}
}

func kindOf(err error) api.Kind {
	var e *api.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

func TestAnImportedKernelTellsItsTicks(t *testing.T) {
	s, vmlinux := emptyStore(t), filepath.Join(t.TempDir(), "vmlinux")
	put(t, vmlinux, string(fakeVmlinux(elf.EM_X86_64, withConfig(append(slices.Clone(fullConfig), "CONFIG_HZ=1000")...))))
	if _, err := s.Import(t.Context(), "mine", Files{Vmlinux: vmlinux}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	if k := ensure(t, s, "mine"); k.HZ != 1000 {
		t.Errorf("its clock ticks %d times a second", k.HZ)
	}
}

func TestImportRefuses(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		put(t, path, string(content))
		return path
	}
	good := file("good", fakeVmlinux(elf.EM_X86_64, whole...))
	arm := make([]byte, 1024)
	copy(arm[arm64MagicAt:], arm64Magic)
	put(t, filepath.Join(dir, "modules", "5.0", "modules.order"), "")
	for name, test := range map[string]struct {
		name  string
		files Files
		says  string
	}{
		"a bad name":         {"../x", Files{Vmlinux: good}, "no name"},
		"a catalog name":     {"generic-6.12", Files{Vmlinux: good}, "there is a kernel"},
		"a relative path":    {"k", Files{Vmlinux: "good"}, "not an absolute path"},
		"an absent file":     {"k", Files{Vmlinux: "/no/such"}, "cannot use /no/such"},
		"a directory":        {"k", Files{Vmlinux: dir}, "not of the right kind"},
		"a text":             {"k", Files{Vmlinux: file("text", []byte(strings.Repeat("hello ", 200)))}, "neither an ELF file nor a bzImage"},
		"an ELF for arm64":   {"k", Files{Vmlinux: file("arm", fakeVmlinux(elf.EM_AARCH64, whole...))}, "for arm64 processors"},
		"an Image for arm64": {"k", Files{Vmlinux: file("image", arm)}, "for arm64 processors"},
		"a program":          {"k", Files{Vmlinux: file("program", bytes.ReplaceAll(fakeVmlinux(elf.EM_X86_64), []byte("Linux version"), []byte("Other program")))}, "no Linux kernel"},
		"others' modules":    {"k", Files{Vmlinux: good, Modules: filepath.Join(dir, "modules")}, "cannot find modules of " + testRelease},
		"an initrd of text":  {"k", Files{Vmlinux: good, Initrd: file("initrd", []byte("hello, world"))}, "neither a cpio archive"},
		"an empty initrd":    {"k", Files{Vmlinux: good, Initrd: file("none", nil)}, "cannot find modules"},
		"what can't boot":    {"k", Files{Vmlinux: file("weak", fakeVmlinux(elf.EM_X86_64, withConfig("CONFIG_ACPI=y")))}, "it has no ext4"},
	} {
		t.Run(name, func(t *testing.T) {
			s := emptyStore(t)
			_, err := s.Import(t.Context(), test.name, test.files, progress.Discard)
			var e *api.Error
			if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v", err)
			}
			entries, _ := os.ReadDir(s.Dir)
			for _, entry := range entries {
				if !strings.HasSuffix(entry.Name(), ".lock") {
					t.Errorf("%s is left", entry.Name())
				}
			}
		})
	}
}

// cpio writes an archive as an initrd has it.
func cpio(files map[string]string) []byte {
	var out bytes.Buffer
	add := func(name string, mode int, content string) {
		fmt.Fprintf(&out, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		out.WriteString(name + "\x00")
		out.Write(make([]byte, padding(int64(cpioHeader+len(name)+1))))
		out.WriteString(content)
		out.Write(make([]byte, padding(int64(len(content)))))
	}
	add("usr", 0o040755, "")
	for name, content := range files {
		add(name, 0o100644, content)
	}
	add(cpioTrailer, 0, "")
	return out.Bytes()
}

func TestInitrds(t *testing.T) {
	early := append(cpio(map[string]string{"kernel/x86/microcode/GenuineIntel.bin": "xx"}), make([]byte, 512)...)
	archive := cpio(map[string]string{
		"usr/lib/modules/" + testRelease + "/kernel/a.ko.xz":  "a",
		"/lib/modules/" + testRelease + "/modules.builtin":    "b",
		"lib/modules/" + testRelease + "/../../../../evil.ko": "c",
		"lib/modules/5.0/kernel/other.ko":                     "d",
		"init":                                                "e",
		"usr/lib/modules/" + testRelease + "/build/Makefile":  "f",
		"./usr/lib/modules/" + testRelease + "/kernel/dot.ko": "g",
	})
	var zipped, zstandard bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(archive)
	z.Close()
	s, _ := zstd.NewWriter(&zstandard)
	s.Write(archive)
	s.Close()
	for name, initrd := range map[string][]byte{
		"plain":               archive,
		"gzip":                zipped.Bytes(),
		"behind microcode":    append(slices.Clone(early), zipped.Bytes()...),
		"zstd behind":         append(slices.Clone(early), zstandard.Bytes()...),
		"two archives, plain": append(slices.Clone(early), archive...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "in")
			path := filepath.Join(t.TempDir(), "initrd")
			put(t, path, string(initrd))
			if err := initrdModules(path, testRelease, dir); err != nil {
				t.Fatal(err)
			}
			var got []string
			_ = filepath.WalkDir(filepath.Dir(dir), func(path string, d os.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					got = append(got, strings.TrimPrefix(path, dir+"/"))
				}
				return err
			})
			if strings.Join(got, " ") != "kernel/a.ko.xz kernel/dot.ko modules.builtin" {
				t.Errorf("got %q", got)
			}
		})
	}
	for name, initrd := range map[string][]byte{
		"cut short": archive[:len(archive)/2], "cut packed": zipped.Bytes()[:zipped.Len()/2], "packed twice": gzipped(zipped.Bytes()),
	} {
		path := filepath.Join(t.TempDir(), "initrd")
		put(t, path, string(initrd))
		if err := initrdModules(path, testRelease, t.TempDir()); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
}

func gzipped(data []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(data)
	z.Close()
	return out.Bytes()
}

func FuzzInitrd(f *testing.F) {
	f.Add(cpio(map[string]string{"lib/modules/x/a.ko": "a"}))
	f.Add(gzipped(cpio(map[string]string{"init": "x"})))
	f.Add([]byte("070701"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var seen int64
		_ = eachInitrdFile(bytes.NewReader(data), func(_ string, content io.Reader, size int64) error {
			n, err := io.Copy(io.Discard, io.LimitReader(content, 1<<20))
			if seen += n; seen > 1<<26 {
				return errors.New("enough")
			}
			return err
		})
	})
}
