package fcqemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

var software = processor{tscKHz: 2596128}

// file is a new open file.
func file(t *testing.T, name string) *fcserver.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fcserver.File{Path: path, File: f}
}

// lines is the command line with one option and its value a line, and the
// names of the files that are inherited.
func lines(c command) string {
	var b strings.Builder
	for _, arg := range c.args {
		if strings.HasPrefix(arg, "-") {
			b.WriteString("\n" + arg)
		} else {
			b.WriteString(" " + arg)
		}
	}
	for i, f := range c.files {
		b.WriteString("\n" + string(rune('0'+firstInherited+i)) + " = " + filepath.Base(f.Name()))
	}
	return strings.TrimSpace(b.String())
}

func TestCommandOfAWholeMachine(t *testing.T) {
	cfg := fcserver.Config{
		ID:      "0123abcd",
		Machine: firecracker.MachineConfig{VCPUCount: 2, MemSizeMiB: 1024},
		Kernel:  file(t, "kernel"), Initrd: file(t, "initrd"),
		Cmdline: "console=ttyS0 reboot=k",
		Drives: []fcserver.Drive{
			{ID: "base", File: file(t, "base"), ReadOnly: true, Cache: firecracker.CacheUnsafe},
			{ID: "cow", File: file(t, "cow"), Cache: firecracker.CacheWriteback},
		},
		Networks: []firecracker.NetworkInterface{{IfaceID: "eth0", HostDevName: "bgr7", GuestMAC: "02:00:00:00:00:07"}},
		Vsock:    &firecracker.Vsock{GuestCID: 3, UDSPath: "v.sock"},
		Entropy:  &firecracker.Entropy{},
		Balloon:  &firecracker.Balloon{DeflateOnOOM: true},
	}
	ch := channels{control: file(t, "control").File, vsock: file(t, "vsock").File, taps: []*os.File{file(t, "tap").File}}
	want := strings.TrimSpace(`
-name guest=0123abcd
-no-user-config
-nodefaults
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-accel tcg,thread=multi,tb-size=512
-cpu max,-erms
-machine microvm,acpi=on,rtc=on,auto-kernel-cmdline=off,memory-backend=ram
-object memory-backend-memfd,id=ram,share=on,size=1024M
-m 1024M
-smp cpus=2,sockets=1,cores=2,threads=1
-action reboot=shutdown,shutdown=pause
-chardev socket,id=control,fd=3
-mon chardev=control,mode=control
-kernel /proc/self/fd/4
-initrd /proc/self/fd/5
-append console=ttyS0 reboot=k reboot=t pci=off tsc_early_khz=2596128 tsc=reliable
-chardev stdio,id=serial,signal=off
-serial chardev:serial
-add-fd fd=6,set=0
-blockdev driver=raw,node-name=drive0,read-only=on,cache.direct=off,cache.no-flush=on,file.driver=file,file.filename=/dev/fdset/0,file.aio=threads,file.locking=off
-device virtio-blk-device,drive=drive0,num-queues=1,write-cache=on,config-wce=off,discard=off,write-zeroes=off,werror=report,rerror=report
-add-fd fd=7,set=1
-blockdev driver=raw,node-name=drive1,read-only=off,cache.direct=off,cache.no-flush=off,file.driver=file,file.filename=/dev/fdset/1,file.aio=threads,file.locking=off
-device virtio-blk-device,drive=drive1,num-queues=1,write-cache=on,config-wce=off,discard=off,write-zeroes=off,werror=report,rerror=report
-netdev tap,id=net0,fd=8,vhost=off
-device virtio-net-device,netdev=net0,mac=02:00:00:00:00:07
-chardev socket,id=vsock,fd=9
-device virtio-serial-device,max_ports=2
-device virtserialport,chardev=vsock,name=banger.vsock
-object rng-builtin,id=entropy
-device virtio-rng-device,rng=entropy
-device virtio-balloon-device,id=balloon,deflate-on-oom=on,free-page-reporting=off
3 = control
4 = kernel
5 = initrd
6 = base
7 = cow
8 = tap
9 = vsock
`)
	if diff := cmp.Diff(want, lines(newCommand(cfg, software, ch))); diff != "" {
		t.Error(diff)
	}
}

func TestCommandOfASmallMachineUnderKVM(t *testing.T) {
	cfg := fcserver.Config{
		ID:      "small",
		Machine: firecracker.MachineConfig{VCPUCount: 4, MemSizeMiB: 128, SMT: true},
		Kernel:  file(t, "kernel"),
		Cmdline: "quiet",
	}
	want := strings.TrimSpace(`
-name guest=small
-no-user-config
-nodefaults
-display none
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-accel kvm
-cpu host
-machine microvm,acpi=on,rtc=on,auto-kernel-cmdline=off,memory-backend=ram
-object memory-backend-memfd,id=ram,share=on,size=128M
-m 128M
-smp cpus=4,sockets=1,cores=2,threads=2
-action reboot=shutdown,shutdown=pause
-chardev socket,id=control,fd=3
-mon chardev=control,mode=control
-kernel /proc/self/fd/4
-append quiet reboot=t pci=off
-chardev stdio,id=serial,signal=off
-serial chardev:serial
3 = control
4 = kernel
`)
	got := lines(newCommand(cfg, processor{kvm: true}, channels{control: file(t, "control").File}))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestKernelArgsStayBeforeThoseOfTheFirstProcess(t *testing.T) {
	args := []string{"x=1", "y"}
	for cmdline, want := range map[string]string{
		"":                        "x=1 y",
		"quiet":                   "quiet x=1 y",
		"quiet -- single":         "quiet x=1 y -- single",
		"-- single":               "x=1 y -- single",
		"a=--b quiet --c":         "a=--b quiet --c x=1 y",
		"quiet -- one -- another": "quiet x=1 y -- one -- another",
	} {
		if got := withKernelArgs(cmdline, args); got != want {
			t.Errorf("%q became %q, want %q", cmdline, got, want)
		}
	}
}

func TestTheDelayLoopIsToldWhereTheTicksAreKnown(t *testing.T) {
	for cmdline, want := range map[string]string{
		"fcqemu.hz=250":             "10384512",
		"quiet fcqemu.hz=1000 -- x": "2596128",
		"quiet":                     "",
		"fcqemu.hz=0":               "",
		"fcqemu.hz=-250":            "",
		"fcqemu.hz=":                "",
		"fcqemu.hz=1000000000000":   "",
	} {
		_, told, _ := strings.Cut(software.cmdline(cmdline), " lpj=")
		told, _, _ = strings.Cut(told, " ")
		if told != want {
			t.Errorf("%q: lpj is %q, want %q", cmdline, told, want)
		}
	}
	accelerated := processor{kvm: true}
	if got := accelerated.cmdline("fcqemu.hz=250"); strings.Contains(got, "lpj") {
		t.Errorf("with KVM the command line is %q", got)
	}
}

func TestCheckRefusesByTheFieldsName(t *testing.T) {
	limits := &firecracker.RateLimiter{}
	for field, change := range map[string]func(*fcserver.Config){
		"cpu_template":       func(c *fcserver.Config) { c.Machine.CPUTemplate = "T2" },
		"track_dirty_pages":  func(c *fcserver.Config) { c.Machine.TrackDirtyPages = true },
		"huge_pages":         func(c *fcserver.Config) { c.Machine.HugePages = firecracker.HugePages2M },
		"--boot-timer":       func(c *fcserver.Config) { c.BootTimer = true },
		"network_interfaces": func(c *fcserver.Config) { c.MMDS = &firecracker.MMDSConfig{} },
		"rate_limiter":       func(c *fcserver.Config) { c.Drives = []fcserver.Drive{{RateLimiter: limits}} },
		"io_engine": func(c *fcserver.Config) {
			c.Drives = []fcserver.Drive{{Engine: firecracker.EngineAsync}}
		},
		"rx_rate_limiter": func(c *fcserver.Config) {
			c.Networks = []firecracker.NetworkInterface{{RxRateLimiter: limits}}
		},
		"tx_rate_limiter": func(c *fcserver.Config) {
			c.Networks = []firecracker.NetworkInterface{{TxRateLimiter: limits}}
		},
		"free_page_hinting": func(c *fcserver.Config) { c.Balloon = &firecracker.Balloon{FreePageHinting: true} },
	} {
		m := New(nil)
		var cfg fcserver.Config
		if err := m.Check(cfg); err != nil {
			t.Fatalf("an empty configuration: %v", err)
		}
		change(&cfg)
		var refused *fcserver.Unsupported
		if err := m.Check(cfg); !errors.As(err, &refused) || refused.Field != field {
			t.Errorf("%s: got %v, want it refused", field, err)
		}
	}
}

func TestCommandLinesAreTakenWhenTheWholeFits(t *testing.T) {
	for n := maxCmdline - 200; n <= maxCmdline; n++ {
		cmdline := strings.Repeat("x", n)
		whole := software.cmdline(cmdline)
		err := checkCmdline(cmdline, software)
		var refused *fcserver.Unsupported
		if len(whole) < maxCmdline && err != nil || len(whole) >= maxCmdline && !errors.As(err, &refused) {
			t.Errorf("%d bytes, %d in all: got %v", n, len(whole), err)
		}
	}
}

func TestCheckCountsDevices(t *testing.T) {
	m := New(nil)
	cfg := fcserver.Config{Vsock: &firecracker.Vsock{}, Entropy: &firecracker.Entropy{}, Drives: make([]fcserver.Drive, maxDevices-2)}
	if err := m.Check(cfg); err != nil {
		t.Errorf("%d devices: %v", maxDevices, err)
	}
	cfg.Networks = make([]firecracker.NetworkInterface, 1)
	if err := m.Check(cfg); err == nil {
		t.Errorf("%d devices were taken", maxDevices+1)
	}
}

func TestInterfacesWithoutAnAddressGetDifferentOnes(t *testing.T) {
	given := []firecracker.NetworkInterface{{GuestMAC: "02:00:00:00:00:01"}, {}, {}}
	got := withAddresses(given)
	if got[0].GuestMAC != given[0].GuestMAC {
		t.Errorf("the address that was given became %s", got[0].GuestMAC)
	}
	if got[1].GuestMAC == got[2].GuestMAC || got[1].GuestMAC == "" {
		t.Errorf("the others have %q and %q", got[1].GuestMAC, got[2].GuestMAC)
	}
	if given[1].GuestMAC != "" {
		t.Error("the caller's configuration was changed")
	}
}
