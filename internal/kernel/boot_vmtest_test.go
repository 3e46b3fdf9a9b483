//go:build vmtest

package kernel

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/progress"
)

const (
	testBase = 64 << 20  // the image
	testDisk = 512 << 20 // the VM's disk
)

// bench is a kernel of the user's own store with a test agent, and an image
// that holds nothing but a few directories.
type bench struct {
	kernel Kernel
	image  string
	dir    string
}

func newBench(t *testing.T) bench {
	t.Helper()
	dir := t.TempDir()
	store := Store{
		Dir:    filepath.Join(home(t), ".local/share/banger/kernels"),
		Init:   program(t, dir, "banger-init", "github.com/banger-vm/banger/cmd/banger-init"),
		Agent:  program(t, dir, "agent", "./testdata/agent"),
		Debian: debian.Options{Cache: filepath.Join(home(t), ".cache/banger/debian")},
	}
	k, err := store.Ensure(context.Background(), "generic-6.12", progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return bench{k, image(t, dir, t.TempDir()), dir}
}

func home(t *testing.T) string {
	t.Helper()
	dir, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func program(t *testing.T, dir, name, pkg string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", pkg, err, out)
	}
	return path
}

// image makes an ext4 file in dir that holds a tree of files.
func image(t *testing.T, dir, tree string) string {
	t.Helper()
	path := filepath.Join(dir, "rootfs.ext4")
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", tree, path, fmt.Sprint(testBase>>10)+"k").CombinedOutput(); err != nil {
		t.Fatalf("cannot make an image: %v\n%s", err, out)
	}
	return path
}

// cow makes a VM's disk in dir.
func (b bench) cow(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "disk.cow")
	if err := disk.Create(disk.Spec{Path: path, Virtual: testDisk, Base: testBase, UID: os.Getuid()}); err != nil {
		t.Fatal(err)
	}
	return path
}

// boot starts a guest on the copy-on-write file (none when it is empty), waits
// until it has reset itself, and gives its console and what its agent told.
func (b bench) boot(t *testing.T, cow, do string) (console string, told map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	defer cancel()
	drives := []string{b.image, cow, b.kernel.Modules}
	cmdline := "console=ttyS0 quiet loglevel=4 reboot=t panic=1 pci=off net.ifnames=0 tsc=reliable tsc_early_khz=" + tscKHz(t) +
		" maxcpus=1 noreplace-smp banger.base=vda banger.cow=vdb banger.modules=vdc banger.disk=" + fmt.Sprint(testDisk) + " test.do=" + do
	args := []string{
		"-M", "microvm,acpi=on,rtc=on,pit=on,pic=on,auto-kernel-cmdline=off,usb=off,pcie=off,isa-serial=on",
		"-accel", "tcg,thread=multi", "-cpu", "max,-erms", "-smp", "2", "-m", "512",
		"-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", b.kernel.Vmlinux, "-initrd", b.kernel.Initramfs, "-append", cmdline,
	}
	for i, path := range drives {
		if path == "" {
			continue
		}
		drive := fmt.Sprintf("file=%s,if=none,id=d%d,format=raw,werror=report", path, i)
		if i != 1 {
			drive += ",readonly=on"
		}
		args = append(args, "-drive", drive, "-device", fmt.Sprintf("virtio-blk-device,drive=d%d", i))
	}
	out, err := exec.CommandContext(ctx, "qemu-system-x86_64", args...).CombinedOutput()
	console = string(out)
	if err != nil {
		t.Fatalf("cannot run the guest: %v\n%s", err, console)
	}
	t.Log(console)
	return console, parseTold(console)
}

func parseTold(console string) map[string]string {
	told := map[string]string{}
	for line := range strings.Lines(console) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "TOLD "); ok {
			key, value, _ := strings.Cut(rest, "=")
			told[key] = value
		}
	}
	return told
}

// tscKHz gives what the host believes its time-stamp counter's rate to be; a
// wrong one only makes the guest's clock wrong, none may hang it.
func tscKHz(t *testing.T) string {
	t.Helper()
	file, err := os.Open("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "cpu MHz" {
			return strings.ReplaceAll(strings.TrimSpace(value), ".", "")
		}
	}
	t.Fatal("cannot find the processor's rate")
	return ""
}

func expect(t *testing.T, told map[string]string, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if told[key] != value {
			t.Errorf("%s is %q, want %q", key, told[key], value)
		}
	}
}

func TestAGuestWithoutAnInitHasWhatProgramsNeed(t *testing.T) {
	b := newBench(t)
	console, told := b.boot(t, b.cow(t, b.dir), "report")
	expect(t, told, map[string]string{
		"error": "", "argv0": "@banger-agent", "init": "none", "oom": "-1000", "lo": "0x9", "processors": "0-1",
		"cgroups": "true", "modules": "true", "virtio_net": "true", "overlay": "true",
		"kvm": "true", "tun": "true", "initramfs-files": "[]",
		"/dev/pts/ptmx": "true", "/dev/shm": "true", "/dev/fd/0": "true", "/tmp": "true", "/run/banger/agent": "true",
	})
	var mib int
	if _, err := fmt.Sscan(told["root-mib"], &mib); err != nil || mib < 450 || mib > testDisk>>20 {
		t.Errorf("the root filesystem was not grown: %q MiB", told["root-mib"])
	}
	if !strings.Contains(console, "reboot: Restarting system") {
		t.Error("the guest did not say that it restarts")
	}
}

func TestTheImagesInitFindsTheGuestsIdentity(t *testing.T) {
	b := newBench(t)
	tree := t.TempDir()
	if err := os.Mkdir(filepath.Join(tree, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	program(t, filepath.Join(tree, "sbin"), "init", "./testdata/agent")
	b.image = image(t, t.TempDir(), tree)
	_, told := b.boot(t, b.cow(t, b.dir), "identify")
	expect(t, told, map[string]string{"identity": "given", "error": ""})
}

func TestADiskIsKeptAndTakenUpAgainAfterItWasCutOff(t *testing.T) {
	b := newBench(t)
	cow := b.cow(t, b.dir)
	_, told := b.boot(t, cow, "write")
	expect(t, told, map[string]string{"error": ""})
	_, told = b.boot(t, cow, "read")
	expect(t, told, map[string]string{"error": "", "kept": "precious"})

	invalidate(t, cow)
	_, told = b.boot(t, cow, "read")
	expect(t, told, map[string]string{"error": "", "kept": "precious"})
}

// invalidate does to a disk what the kernel does when it can't write to it.
func invalidate(t *testing.T, cow string) {
	t.Helper()
	file, err := os.OpenFile(cow, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{0, 0, 0, 0}, 4); err != nil {
		t.Fatal(err)
	}
}

func TestAFullHostCostsNothingThatWasSynced(t *testing.T) {
	b := newBench(t)
	small := smallFilesystem(t, 64<<20)
	cow := b.cow(t, small)
	_, told := b.boot(t, cow, "fill")
	var synced int
	if _, err := fmt.Sscan(told["synced"], &synced); err != nil || synced == 0 {
		t.Fatalf("the host was full after %q files", told["synced"])
	}
	if err := unix.Mount("", small, "tmpfs", unix.MS_REMOUNT, "size=1g"); err != nil {
		t.Fatal(err)
	}
	_, told = b.boot(t, cow, "read")
	var whole int
	if _, err := fmt.Sscan(told["whole"], &whole); err != nil || whole < synced {
		t.Errorf("of %d synced files %q are whole", synced, told["whole"])
	}
	expect(t, told, map[string]string{"error": ""})
}

// smallFilesystem mounts a filesystem of so many bytes.
func smallFilesystem(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestAFailedBootSaysWhyOnTheConsole(t *testing.T) {
	b := newBench(t)
	b.kernel.Modules = "" // so there are no drives vdb and vdc
	console, _ := b.boot(t, "", "report")
	if !strings.Contains(console, "banger-init: cannot find /dev/vdb: the kernel lacks what it takes to see the drive, or the host gave this machine none") {
		t.Errorf("the console does not say it")
	}
	if !strings.Contains(console, "Run /init as init process") {
		t.Errorf("the end of the kernel's log is not shown")
	}
}
