package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// portsDir is where the kernel names its virtio-serial ports.
const portsDir = "/sys/class/virtio-ports"

// findPort returns the device of the port with this name below dir.
func findPort(dir, name string) (string, bool) {
	files, err := filepath.Glob(filepath.Join(dir, "*", "name"))
	if err != nil {
		return "", false
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), true
		}
	}
	return "", false
}

// waitForPort opens the port with this name when the kernel has it. The kernel
// tells of each new device, and of the name that it learns a moment later.
func waitForPort(name string) (*portDevice, error) {
	events, err := listenUevents()
	if err != nil {
		return nil, err
	}
	defer unix.Close(events)
	for {
		if path, ok := findPort(portsDir, name); ok {
			device, err := openPort(path)
			if !errors.Is(err, fs.ErrNotExist) { // its device file comes with a later event
				return device, err
			}
		}
		if err := nextPortEvent(events); err != nil {
			return nil, err
		}
	}
}

// listenUevents opens a socket that tells the kernel's device events.
func listenUevents() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cannot listen for devices: %w", err)
	}
	return fd, nil
}

// nextPortEvent waits for an event of a virtio-serial port, or for the news
// that events were lost.
func nextPortEvent(fd int) error {
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENOBUFS):
			return nil
		case err != nil:
			return fmt.Errorf("cannot listen for devices: %w", err)
		case bytes.Contains(buf[:n], []byte("SUBSYSTEM=virtio-ports\x00")):
			return nil
		}
	}
}

// portDevice is a virtio-serial port. The kernel's driver gives end of file and
// hang-up for as long as the host has not opened its side, which here only
// means to wait; so reading and writing go around Go's own poller and wait for
// the next change of the port, each with an edge-triggered epoll of its own.
type portDevice struct {
	fd       int
	readable int
	writable int
	closed   atomic.Bool
	stop     int // an eventfd that is readable once the device is closed
}

func openPort(path string) (*portDevice, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the port %s: %w", path, err)
	}
	d, err := newPortDevice(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot wait for the port %s: %w", path, err)
	}
	return d, nil
}

// newPortDevice owns fd, which does not block.
func newPortDevice(fd int) (*portDevice, error) {
	d := &portDevice{fd: fd}
	var err error
	if d.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, err
	}
	if d.readable, err = d.watch(unix.EPOLLIN); err != nil {
		return nil, err
	}
	if d.writable, err = d.watch(unix.EPOLLOUT); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *portDevice) watch(events uint32) (int, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, d.fd, &unix.EpollEvent{Events: events | unix.EPOLLET, Fd: int32(d.fd)}),
		unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, d.stop, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(d.stop)}),
	)
	return epoll, err
}

// change waits until something has happened to the port since the last time.
func (d *portDevice) change(epoll int) error {
	var events [2]unix.EpollEvent
	for !d.closed.Load() {
		_, err := unix.EpollWait(epoll, events[:], -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return fs.ErrClosed
}

// Read waits for bytes; that the host is not there is no end.
func (d *portDevice) Read(p []byte) (int, error) {
	for !d.closed.Load() {
		n, err := unix.Read(d.fd, p)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EPIPE) {
			return 0, fmt.Errorf("cannot read the port to the host: %w", err)
		}
		if err := d.change(d.readable); err != nil {
			return 0, err
		}
	}
	return 0, fs.ErrClosed
}

// Write waits for the host to take all of p.
func (d *portDevice) Write(p []byte) (int, error) {
	total := 0
	for total < len(p) && !d.closed.Load() {
		n, err := unix.Write(d.fd, p[total:])
		if n > 0 {
			total += n
			continue
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EPIPE) {
			return total, fmt.Errorf("cannot write to the port to the host: %w", err)
		}
		if err := d.change(d.writable); err != nil {
			return total, err
		}
	}
	if total < len(p) {
		return total, fs.ErrClosed
	}
	return total, nil
}

// Close ends all waiting. The descriptors stay, so that no other file can get
// their numbers under a Read that is just returning.
func (d *portDevice) Close() error {
	d.closed.Store(true)
	_, err := unix.Write(d.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	return err
}
