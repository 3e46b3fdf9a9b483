// Command agent stands in for banger's agent in the kernel's own tests: it
// tells on the console what it finds in the guest, does what test.do= on the
// kernel's command line says, and ends the machine. It never dials the host.
// It also stands in for an image's init.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() == 1 {
		beInit()
	}
	if err := run(); err != nil {
		tell("error", err.Error())
	}
	// This image has no init: banger-init is PID 1 and SIGTERM asks it to reboot.
	if err := syscall.Kill(1, syscall.SIGTERM); err != nil {
		tell("error", err.Error())
	}
	select {} // until it is killed
}

// tell prints a line that the test reads.
func tell(key string, value any) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer console.Close()
	fmt.Fprintf(console, "TOLD %s=%v\n", key, value)
}

// beInit tells what an image's init finds, and ends the machine.
func beInit() {
	tell("identity", text(identity))
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0); err == nil {
		_ = unix.IoctlSetInt(int(console.Fd()), unix.TCSBRK, 1) // the last byte is out
	}
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
}

// identity is what a guest gets of its host, in these tests.
const identity = "/run/identity"

// handOverSoon is longer than banger-init takes from the agent's start to the
// image's init when it does not wait for anything.
const handOverSoon = time.Second

// identify gives the guest its identity when the image's init has not been started
// although it could have been.
func identify() error {
	configured, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	if err := awaitMark("handing over", time.Now().Add(handOverSoon)); !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the image's init was started without an identity (%v)", err)
	}
	if err := os.WriteFile(identity, []byte("given"), 0o600); err != nil {
		return err
	}
	if err := syscall.Close(configured); err != nil {
		return err
	}
	select {}
}

func run() error {
	if argument("test.do") == "identify" {
		return identify()
	}
	// Without an init there is no notify word to wait for: after this one PID 1 is
	// in its last state.
	if err := awaitMark("this image has no init", time.Time{}); err != nil {
		return err
	}
	switch argument("test.do") {
	case "report":
		return report()
	case "write":
		return writeFile("/kept", []byte("precious"))
	case "read":
		return read()
	case "fill":
		return fill()
	}
	return errors.New("nothing to do")
}

// awaitMark waits until banger-init has said this in the kernel's log, or until a
// moment, if there is one.
func awaitMark(words string, until time.Time) error {
	log, err := os.OpenFile("/dev/kmsg", os.O_RDONLY|syscall.O_NONBLOCK, 0) // so that it can be waited for
	if err != nil {
		return err
	}
	defer log.Close()
	if err := log.SetReadDeadline(until); err != nil {
		return err
	}
	record := make([]byte, 8192) // one a read
	for {
		n, err := log.Read(record)
		if errors.Is(err, syscall.EPIPE) {
			continue // some were overwritten before they were read
		}
		if err != nil {
			return err
		}
		if bytes.Contains(record[:n], []byte("banger-init: "+words)) {
			return nil
		}
	}
}

func argument(key string) string {
	cmdline, _ := os.ReadFile("/proc/cmdline")
	for _, field := range strings.Fields(string(cmdline)) {
		if name, value, _ := strings.Cut(field, "="); name == key {
			return value
		}
	}
	return ""
}

// report tells what every program of a guest may count on.
func report() error {
	tell("argv0", os.Args[0])
	tell("init", text("/run/banger/init"))
	tell("oom", text("/proc/self/oom_score_adj"))
	tell("lo", text("/sys/class/net/lo/flags"))
	tell("processors", text("/sys/devices/system/cpu/online"))
	var root syscall.Statfs_t
	if err := syscall.Statfs("/", &root); err != nil {
		return err
	}
	tell("root-mib", root.Blocks*uint64(root.Frsize)>>20)
	_, cgroups := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	tell("cgroups", cgroups == nil)
	for _, path := range []string{"/dev/pts/ptmx", "/dev/shm", "/dev/fd/0", "/tmp", "/run/banger/agent"} {
		_, err := os.Stat(path)
		tell(path, err == nil)
	}
	release := text("/proc/sys/kernel/osrelease")
	_, err := os.Stat("/lib/modules/" + release + "/modules.dep.bin")
	tell("modules", err == nil)
	_, err = os.Stat("/sys/bus/virtio/drivers/virtio_net")
	tell("virtio_net", err == nil)
	tell("kvm", opens("/dev/kvm"))
	tell("tun", opens("/dev/net/tun"))
	tell("initramfs-files", initramfsFiles())
	tell("overlay", syscall.Mount("overlay", "/tmp", "overlay", 0, "lowerdir=/dev:/sys") == nil)
	return nil
}

func text(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

// opens tells whether a device can be opened; the first try makes the kernel
// load its module.
func opens(path string) bool {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	file.Close()
	return true
}

// initramfsFiles looks for what should have been given up with the initramfs.
func initramfsFiles() (found []string) {
	for _, name := range []string{"/init", "/agent", "/modules/order"} {
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			found = append(found, name)
		}
	}
	return found
}

func writeFile(path string, data []byte) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

func read() error {
	tell("kept", text("/kept"))
	files, err := filepath.Glob("/full/*")
	if err != nil {
		return err
	}
	whole := 0
	for _, name := range files {
		if data, err := os.ReadFile(name); err == nil && bytes.Equal(data, record(filepath.Base(name))) {
			whole++
		}
	}
	tell("whole", whole)
	return writeFile("/after", []byte("still writable"))
}

// record is a megabyte that belongs to a name.
func record(name string) []byte { return bytes.Repeat([]byte(name+"\n"), 1<<20/(len(name)+1)) }

// fill writes and syncs files until the host has no space, and then cuts the
// power, as a host does that kills its VMM.
func fill() error {
	if err := os.Mkdir("/full", 0o755); err != nil {
		return err
	}
	for i := 0; ; i++ {
		name := fmt.Sprintf("%06d", i)
		if err := writeFile("/full/"+name, record(name)); err != nil {
			tell("synced", i)
			return syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
		}
	}
}
