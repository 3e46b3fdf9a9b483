// Testguest is the first process of the suite's guest: package script on a
// real kernel. It needs what banger's initramfs has: /modules with its order.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/firecracker/fctest/script"
	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

func main() {
	if err := run(); err != nil {
		fmt.Printf("testguest: cannot run: %v\n", err)
	}
	// A first process must not end: the kernel would panic.
	select {}
}

func run() error {
	if err := mountAll(); err != nil {
		return err
	}
	if err := openConsole(); err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	// Ctrl-Alt-Del becomes SIGINT to the first process (reboot(2)).
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF); err != nil {
		return err
	}
	m, err := newMachine()
	if err != nil {
		return err
	}
	return script.Run(context.Background(), m)
}

func mountAll() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("cannot mount %s: %w", m.at, err)
		}
	}
	return nil
}

func openConsole() error {
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	os.Stdout = console
	return nil
}

// loadModules loads what the order file of banger's initramfs names.
func loadModules(dir string) error {
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(order)) {
		if fields := strings.Fields(line); len(fields) > 0 {
			if err := loadModule(filepath.Join(dir, fields[0])); err != nil {
				return fmt.Errorf("cannot load %s: %w", fields[0], err)
			}
		}
	}
	return nil
}

func loadModule(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if err == unix.EEXIST || err == unix.ENODEV {
		return nil
	}
	return err
}

// link is the guest's way to vsock ports, over the device that it has.
type link interface {
	Listen(port uint32) (net.Listener, error)
	DialHost(ctx context.Context, port uint32) (net.Conn, error)
}

// machine is script.Platform on Linux.
type machine struct {
	link
	keys chan struct{}
}

func newMachine() (*machine, error) {
	l, err := openLink()
	if err != nil {
		return nil, err
	}
	m := &machine{link: l, keys: make(chan struct{}, 1)}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT)
	go func() {
		<-signals
		m.keys <- struct{}{}
	}()
	return m, nil
}

func openLink() (link, error) {
	if cid, err := vsock.ContextID(); err == nil && cid != anyCID {
		return vsockLink{}, nil
	}
	return openSerial()
}

func (m *machine) Console() io.Writer          { return os.Stdout }
func (m *machine) CtrlAltDel() <-chan struct{} { return m.keys }

func (m *machine) Reset()    { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART) }
func (m *machine) PowerOff() { _ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) }

func (m *machine) Cmdline() string {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}

func (m *machine) Disks() ([]script.Disk, error) {
	names, err := filepath.Glob("/sys/block/vd*")
	if err != nil {
		return nil, err
	}
	var disks []script.Disk
	for _, path := range names {
		d, err := diskAt(path)
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

func diskAt(path string) (script.Disk, error) {
	d := script.Disk{Name: filepath.Base(path)}
	sectors, err := os.ReadFile(filepath.Join(path, "size"))
	if err != nil {
		return d, err
	}
	if d.Sectors, err = strconv.ParseInt(strings.TrimSpace(string(sectors)), 10, 64); err != nil {
		return d, err
	}
	readOnly, err := os.ReadFile(filepath.Join(path, "ro"))
	if err != nil {
		return d, err
	}
	d.ReadOnly = strings.TrimSpace(string(readOnly)) == "1"
	device, err := os.Open("/dev/" + d.Name)
	if err != nil {
		return d, err
	}
	defer device.Close()
	d.Head, err = script.Head(device)
	return d, err
}

func (m *machine) Networks() ([]string, error) {
	paths, err := filepath.Glob("/sys/class/net/eth*/address")
	if err != nil {
		return nil, err
	}
	var macs []string
	for _, path := range paths {
		mac, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		macs = append(macs, strings.TrimSpace(string(mac)))
	}
	return macs, nil
}

// anyCID is VMADDR_CID_ANY: no device has it.
const anyCID = 0xffffffff

// vsockLink is the vsock device of Firecracker's guests.
type vsockLink struct{}

func (vsockLink) Listen(port uint32) (net.Listener, error) {
	return vsock.ListenContextID(anyCID, port, nil)
}

func (vsockLink) DialHost(_ context.Context, port uint32) (net.Conn, error) {
	return vsock.Dial(vsock.Host, port, nil)
}
