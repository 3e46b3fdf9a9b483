package fcqemu

import (
	"fmt"
	"os"
	"strings"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// The device's id by which QEMU is asked about the balloon.
const balloonID = "balloon"

// translations is how much memory QEMU may fill with translated code, in MiB;
// its own default is 1024 for each guest. It is touched as it fills.
const translations = 512

// firstInherited is the number that the first of a child's extra files gets.
const firstInherited = 3

// command is one QEMU command line with the files that it inherits.
type command struct {
	args  []string
	files []*os.File
}

func (c *command) add(args ...string) { c.args = append(c.args, args...) }

// inherit gives QEMU a file and returns the descriptor's number there.
func (c *command) inherit(f *os.File) int {
	c.files = append(c.files, f)
	return firstInherited + len(c.files) - 1
}

// channels are QEMU's ends of its connections with this process.
type channels struct {
	control *os.File
	vsock   *os.File   // nil without a vsock
	taps    []*os.File // one for each network interface
}

// newCommand says how QEMU is to run cfg on p.
func newCommand(cfg fcserver.Config, p processor, ch channels) command {
	var c command
	c.isolation(cfg.ID)
	c.processor(p)
	c.machine(cfg.Machine)
	c.control(ch.control)
	c.kernel(cfg, p)
	c.serial()
	for i, d := range cfg.Drives {
		c.drive(i, d)
	}
	for i, n := range cfg.Networks {
		c.network(i, n, ch.taps[i])
	}
	if cfg.Vsock != nil {
		c.vsock(ch.vsock)
	}
	if cfg.Entropy != nil {
		c.add("-object", "rng-builtin,id=entropy", "-device", "virtio-rng-device,rng=entropy")
	}
	if cfg.Balloon != nil {
		c.balloon(*cfg.Balloon)
	}
	return c
}

func (c *command) isolation(id string) {
	c.add(
		"-name", "guest="+id,
		"-no-user-config", "-nodefaults", "-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
	)
}

// processor picks the accelerator and the model. erms is slow in software:
// clearing memory with it takes twice the time.
func (c *command) processor(p processor) {
	if p.kvm {
		c.add("-accel", "kvm", "-cpu", "host")
		return
	}
	c.add("-accel", fmt.Sprintf("tcg,thread=multi,tb-size=%d", translations), "-cpu", "max,-erms")
}

// machine makes a microvm whose devices the guest finds by ACPI. PIC and PIT
// stay: without them a software guest hangs. The memory is a shared memfd.
// When the guest resets or powers off QEMU stops and waits to be told.
func (c *command) machine(m firecracker.MachineConfig) {
	memory := fmt.Sprint(m.MemSizeMiB)
	c.add(
		"-machine", "microvm,acpi=on,rtc=on,auto-kernel-cmdline=off,memory-backend=ram",
		"-object", "memory-backend-memfd,id=ram,share=on,size="+memory+"M",
		"-m", memory+"M",
		"-smp", topology(m),
		"-action", "reboot=shutdown,shutdown=pause",
	)
}

func topology(m firecracker.MachineConfig) string {
	if m.SMT && m.VCPUCount > 1 {
		return fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=2", m.VCPUCount, m.VCPUCount/2)
	}
	return fmt.Sprintf("cpus=%d,sockets=1,cores=%d,threads=1", m.VCPUCount, m.VCPUCount)
}

func (c *command) control(f *os.File) {
	c.add("-chardev", fmt.Sprintf("socket,id=control,fd=%d", c.inherit(f)), "-mon", "chardev=control,mode=control")
}

// kernel hands over the files as this process opened them; QEMU opens such
// files only by a name.
func (c *command) kernel(cfg fcserver.Config, p processor) {
	c.add("-kernel", fmt.Sprintf("/proc/self/fd/%d", c.inherit(cfg.Kernel.File)))
	if cfg.Initrd != nil {
		c.add("-initrd", fmt.Sprintf("/proc/self/fd/%d", c.inherit(cfg.Initrd.File)))
	}
	c.add("-append", p.cmdline(cfg.Cmdline))
}

// serial is the first serial port, on QEMU's stdin and stdout.
func (c *command) serial() {
	c.add("-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial")
}

// drive adds the next virtio block device: QEMU fills its slots so that the
// first device is the first one that Linux finds.
//
// The guest is told of a write cache always; a flush syncs the file, or, with
// the cache type Unsafe, does nothing. As in Firecracker there is no discard,
// and no lock: who starts a machine locks what is to be locked.
func (c *command) drive(i int, d fcserver.Drive) {
	fd := c.inherit(d.File.File)
	c.add("-add-fd", fmt.Sprintf("fd=%d,set=%d", fd, i))
	node := fmt.Sprintf("drive%d", i)
	c.add("-blockdev", strings.Join([]string{
		"driver=raw", "node-name=" + node,
		"read-only=" + onOff(d.ReadOnly),
		"cache.direct=off", "cache.no-flush=" + onOff(d.Cache != firecracker.CacheWriteback),
		"file.driver=" + fileDriver(d.File.File),
		fmt.Sprintf("file.filename=/dev/fdset/%d", i),
		"file.aio=threads", "file.locking=off",
	}, ","))
	c.add("-device", "virtio-blk-device,drive="+node+",num-queues=1,write-cache=on,config-wce=off,discard=off,write-zeroes=off,werror=report,rerror=report")
}

// fileDriver is QEMU's name for what f is.
func fileDriver(f *os.File) string {
	if info, err := f.Stat(); err == nil && info.Mode()&os.ModeDevice != 0 {
		return "host_device"
	}
	return "file"
}

// network hands over the tap: QEMU needs no right to open one.
func (c *command) network(i int, n firecracker.NetworkInterface, tap *os.File) {
	c.add(
		"-netdev", fmt.Sprintf("tap,id=net%d,fd=%d,vhost=off", i, c.inherit(tap)),
		"-device", fmt.Sprintf("virtio-net-device,netdev=net%d,mac=%s", i, n.GuestMAC),
	)
}

// vsock is a virtio-serial port that carries the guest's vsock streams; the
// guest finds it by its name below /sys/class/virtio-ports.
func (c *command) vsock(f *os.File) {
	c.add(
		"-chardev", fmt.Sprintf("socket,id=vsock,fd=%d", c.inherit(f)),
		"-device", "virtio-serial-device,max_ports=2",
		"-device", "virtserialport,chardev=vsock,name="+proto.SerialPort,
	)
}

func (c *command) balloon(b firecracker.Balloon) {
	c.add("-device", fmt.Sprintf("virtio-balloon-device,id=%s,deflate-on-oom=%s,free-page-reporting=%s",
		balloonID, onOff(b.DeflateOnOOM), onOff(b.FreePageReporting)))
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
