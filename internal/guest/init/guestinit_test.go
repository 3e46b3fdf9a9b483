package guestinit

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestParseCmdline(t *testing.T) {
	full := config{Base: "vda", Cow: "vdb", Modules: "vdc", Disk: 20 << 30}
	for name, c := range map[string]struct {
		text string
		want config
	}{
		"the daemon's":            {"console=ttyS0 quiet banger.base=vda banger.cow=vdb banger.modules=vdc banger.disk=21474836480 reboot=t\n", full},
		"quoted":                  {`banger.base="vda" banger.cow="vdb" banger.modules="vdc" banger.disk="21474836480"`, full},
		"the last one wins":       {"banger.base=vdx banger.base=vda banger.cow=vdb banger.modules=vdc banger.disk=1 banger.disk=21474836480", full},
		"after -- is not ours":    {"banger.base=vda -- banger.cow=vdb", config{Base: "vda"}},
		"a whole copy of its own": {"banger.base=vda banger.disk=4096", config{Base: "vda", Disk: 4096}},
	} {
		got, err := parseCmdline(c.text)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", name, got, err, c.want)
		}
	}
}

func TestParseCmdlineTellsWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"quiet":                           "has no banger.base=",
		"banger.base=vda banger.disk=20G": "banger.disk=20G",
		"banger.base=vda banger.disk=-1":  "banger.disk=-1",
		"banger.base=vda banger.disk=9223372036854775808": "must be a number of bytes",
	} {
		if _, err := parseCmdline(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v, want %q", text, err, want)
		}
	}
}

func TestOnlineProcessors(t *testing.T) {
	dir := t.TempDir()
	for n, state := range []string{"", "0\n", "1\n", "0\n"} { // the first has no switch
		cpu := filepath.Join(dir, "cpu"+strconv.Itoa(n))
		if err := os.Mkdir(cpu, 0o755); err != nil {
			t.Fatal(err)
		}
		if state == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(cpu, "online"), []byte(state), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if errs := onlineProcessors(dir); errs != nil {
		t.Error(errs)
	}
	for _, n := range []string{"1", "2", "3"} {
		if state, err := os.ReadFile(filepath.Join(dir, "cpu"+n, "online")); err != nil || strings.TrimSpace(string(state)) != "1" {
			t.Errorf("processor %s is %q, %v", n, state, err)
		}
	}
}

// TestProcessorsWithoutASwitch has a kernel that can't add processors, which is
// no trouble where all work already.
func TestProcessorsWithoutASwitch(t *testing.T) {
	dir := t.TempDir()
	for _, cpu := range []string{"cpu0", "cpu1"} {
		if err := os.Mkdir(filepath.Join(dir, cpu), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir, "offline", "\n")
	if errs := onlineProcessors(dir); errs != nil {
		t.Errorf("all work: %v", errs)
	}
	write(t, dir, "offline", "1\n")
	if errs := onlineProcessors(dir); len(errs) != 1 || !strings.Contains(errs[0].Error(), "CONFIG_HOTPLUG_CPU") {
		t.Errorf("one is off: %v", errs)
	}
}

func TestParseOrder(t *testing.T) {
	got, err := parseOrder("virtio_mmio.ko\nvirtio_blk.ko virtio_mmio.ko\n\n")
	want := []module{{"virtio_mmio.ko", []string{}}, {"virtio_blk.ko", []string{"virtio_mmio.ko"}}}
	if err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(module{})) {
		t.Errorf("parseOrder = %v, %v", got, err)
	}
	// A module that waited for a later one could wait for ever.
	if _, err := parseOrder("a.ko b.ko\nb.ko\n"); err == nil {
		t.Error("a module before one that it needs was accepted")
	}
	if _, err := parseOrder("a.ko a.ko\n"); err == nil {
		t.Error("a module that waits for itself was accepted")
	}
}

func TestLoaderFailsWithTheFirstErrorAndEnds(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "order", "b.ko\nc.ko b.ko\n")
	write(t, dir, "b.ko", "no module")
	write(t, dir, "c.ko", "no module")
	l, err := startModules(dir)
	if err != nil {
		t.Fatal(err)
	}
	err = l.wait()
	if err == nil || !strings.Contains(err.Error(), "cannot load") {
		t.Errorf("error is %v", err)
	}
	if got := l.waitFor("c.ko", "built-in.ko"); got == nil {
		t.Error("waitFor gives no error")
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOriginTable(t *testing.T) {
	got := originTable("254:0", 100, 1000)
	want := []target{{0, 100, "linear", "254:0 0"}, {100, 900, "zero", ""}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{})); diff != "" {
		t.Error(diff)
	}
	if got := originTable("254:0", 100, 100); len(got) != 1 {
		t.Errorf("a disk of the base's size has %d targets", len(got))
	}
}

func TestSnapshotTable(t *testing.T) {
	got := snapshotTable("253:0", "254:16", 1000, 32)
	want := []target{{0, 1000, "snapshot", "253:0 254:16 P 32"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{})); diff != "" {
		t.Error(diff)
	}
}

// decodeTable reads targets as the kernel does (dm-ioctl.c, populate_table).
func decodeTable(t *testing.T, b []byte, count int) []target {
	t.Helper()
	var table []target
	at := 0
	for range count {
		spec := b[at:]
		next := int(binary.NativeEndian.Uint32(spec[20:]))
		if next%8 != 0 {
			t.Fatalf("a target is not aligned: %d", next)
		}
		table = append(table, target{
			start:   binary.NativeEndian.Uint64(spec[0:]),
			sectors: binary.NativeEndian.Uint64(spec[8:]),
			kind:    unix.ByteSliceToString(spec[24:40]),
			params:  unix.ByteSliceToString(spec[40:next]),
		})
		at += next
	}
	if at != len(b) {
		t.Fatalf("%d bytes are left over", len(b)-at)
	}
	return table
}

func TestDMRequestIsWhatTheKernelReads(t *testing.T) {
	want := originTable("254:0", 2097152, 33554432)
	req := dmRequest("banger-origin", dmReadOnly, want)
	word := func(at int) int { return int(binary.NativeEndian.Uint32(req[at:])) }
	if word(0) != 4 || word(12) != len(req) || word(16) != dmHeaderSize || word(20) != len(want) || word(28) != dmReadOnly {
		t.Errorf("header is % x", req[:48])
	}
	if name := unix.ByteSliceToString(req[48:176]); name != "banger-origin" {
		t.Errorf("name is %q", name)
	}
	got := decodeTable(t, req[dmHeaderSize:], len(want))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(target{})); diff != "" {
		t.Error(diff)
	}
}

func TestHugeDecode(t *testing.T) {
	for _, c := range []struct {
		major, minor uint32
		want         string
	}{{253, 1, "253:1"}, {8, 300, "8:300"}} {
		if got := hugeDecode(unix.Mkdev(c.major, c.minor)); got != c.want {
			t.Errorf("hugeDecode = %s, want %s", got, c.want)
		}
	}
}

func TestParseSuperblock(t *testing.T) {
	super := make([]byte, 1024)
	binary.LittleEndian.PutUint32(super[0x4:], 262144)
	binary.LittleEndian.PutUint32(super[0x18:], 2)
	binary.LittleEndian.PutUint32(super[0x150:], 1)
	if _, err := parseSuperblock(super); err == nil {
		t.Error("a superblock without magic was accepted")
	}
	binary.LittleEndian.PutUint16(super[0x38:], 0xef53)
	if got, err := parseSuperblock(super); err != nil || got != (extent{262144, 4096, false}) {
		t.Errorf("%+v, %v", got, err)
	}
	binary.LittleEndian.PutUint32(super[0x60:], 0x80)
	if got, err := parseSuperblock(super); err != nil || got.blocks != 1<<32|262144 {
		t.Errorf("64 bits: %+v, %v", got, err)
	}
	binary.LittleEndian.PutUint32(super[0x5c:], 0x200)
	if got, err := parseSuperblock(super); err != nil || !got.fixed {
		t.Errorf("sparse_super2: %+v, %v", got, err)
	}
}

func TestKindOf(t *testing.T) {
	for _, c := range []struct {
		path   string
		openRC bool
		want   initKind
	}{
		{"/usr/lib/systemd/systemd", false, initSystemd},
		{"/bin/busybox", false, initBusybox},
		{"/bin/busybox", true, initOpenRC},
		{"/usr/bin/openrc-init", false, initOpenRC},
		{"/sbin/init", false, initOther},
		{"/sbin/init", true, initOpenRC},
	} {
		if got := kindOf(c.path, c.openRC); got != c.want {
			t.Errorf("kindOf(%s, %v) = %s, want %s", c.path, c.openRC, got, c.want)
		}
	}
}

func TestResolveProgram(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "program", "")
	write(t, dir, "data", "")
	if err := errors.Join(
		os.Chmod(filepath.Join(dir, "program"), 0o755),
		os.Symlink("program", filepath.Join(dir, "link")),
		os.Symlink("none", filepath.Join(dir, "dangling")),
	); err != nil {
		t.Fatal(err)
	}
	if got, ok := resolveProgram(filepath.Join(dir, "link")); !ok || got != filepath.Join(dir, "program") {
		t.Errorf("link leads to %q, %v", got, ok)
	}
	for _, name := range []string{"data", "dangling", "none", "."} {
		if got, ok := resolveProgram(filepath.Join(dir, name)); ok {
			t.Errorf("%s leads to %q", name, got)
		}
	}
}

func TestParseDevnames(t *testing.T) {
	got := parseDevnames("# Device nodes\ntun net/tun c10:200\nloop loop-control c10:237\nx sda b8:0\nbad ../../x c1:1\nbad x c1\n")
	want := []deviceNode{
		{"/dev/net/tun", unix.S_IFCHR, 10, 200},
		{"/dev/loop-control", unix.S_IFCHR, 10, 237},
		{"/dev/sda", unix.S_IFBLK, 8, 0},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(deviceNode{})); diff != "" {
		t.Error(diff)
	}
}

const (
	testDeps = `kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko kernel/virt/lib/irqbypass.ko
kernel/virt/lib/irqbypass.ko:
kernel/fs/overlayfs/overlay.ko:
`
	testAliases = `# Aliases extracted from modules themselves.
alias fs-overlay overlay
alias char-major-10-200 tun
`
)

func TestDependenciesComeFirst(t *testing.T) {
	got := dependencies(testDeps, "kvm_amd")
	want := []string{"kernel/virt/lib/irqbypass.ko", "kernel/arch/x86/kvm/kvm.ko", "kernel/arch/x86/kvm/kvm-amd.ko"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := dependencies(testDeps, "none"); got != nil {
		t.Errorf("an unknown module gives %v", got)
	}
}

func TestResolveModuleRequests(t *testing.T) {
	x := moduleIndex{deps: testDeps, aliases: testAliases}
	for request, want := range map[string][]string{
		"fs-overlay":        {"overlay"},
		"overlay":           {"overlay"},
		"char-major-10-200": {"tun"},
		"kvm-amd":           {"kvm-amd"},
		"nothing":           nil,
	} {
		if diff := cmp.Diff(want, x.resolve(request)); diff != "" {
			t.Errorf("%s: %s", request, diff)
		}
	}
}

func TestKVMModuleFor(t *testing.T) {
	for cpuinfo, want := range map[string]string{
		"processor\t: 0\nflags\t\t: fpu svm sse\n\nflags : fpu\n": "kvm_amd",
		"flags\t\t: fpu vmx\nvmx flags\t: vnmi\n":                 "kvm_intel",
		"flags\t\t: fpu svm_lock vmxx\n":                          "",
		"":                                                        "",
	} {
		if got := kvmModuleFor(cpuinfo); got != want {
			t.Errorf("%q gives %q, want %q", cpuinfo, got, want)
		}
	}
}

func TestNewestFirst(t *testing.T) {
	got := newestFirst("/dev/dm-1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n/dev/vdd /a\\040b\\134 ext4 rw 0 0\n")
	if diff := cmp.Diff([]string{`/a b\`, "/proc", "/"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestLastLines(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a\nb\nc\n", "b\nc\n"},
		{"a\n", "a\n"},
		{"a\nb\nc", "b\nc"},
		{"", ""},
	} {
		if got := lastLines(c.text, 2); got != c.want {
			t.Errorf("lastLines(%q) = %q, want %q", c.text, got, c.want)
		}
	}
}

func TestErrorsSayWhatCouldNotBeDone(t *testing.T) {
	err := cannot("mount the root filesystem", unix.EINVAL)
	if err.Error() != "cannot mount the root filesystem: invalid argument" || !errors.Is(err, unix.EINVAL) {
		t.Errorf("error is %v", err)
	}
	if cannot("do nothing", nil) != nil {
		t.Error("no error became one")
	}
}

func TestRuntimeFilesStayInRun(t *testing.T) {
	for _, f := range append(commonFiles, systemdFiles...) {
		if !strings.HasPrefix(f.path, "/run/") {
			t.Errorf("%s would be written to the image's disk", f.path)
		}
	}
}

func TestEachLinkOfSystemdLeadsToAUnitThatIsWritten(t *testing.T) {
	written := map[string]bool{}
	for _, f := range systemdFiles {
		written[f.path] = true
	}
	for name, to := range systemdLinks {
		unit, inside := strings.CutPrefix(to, "../")
		if to != "/dev/null" && (!inside || !written["/run/systemd/system/"+unit]) {
			t.Errorf("%s leads to %s", name, to)
		}
	}
}
