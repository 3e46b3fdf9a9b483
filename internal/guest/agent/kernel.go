package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// Kernel is what the agent changes in the guest beside files.
type Kernel interface {
	SetHostname(name string) error
	// SetInterface gives the interface exactly these addresses and routes and
	// brings it up, the loopback interface too.
	SetInterface(name string, addresses []netip.Prefix, routes []proto.Route) error
	SetClock(t time.Time) error
	AddEntropy(seed []byte) error
	// InMemory refuses a directory whose files get onto a disk.
	InMemory(dir string) error
	// AwaitHandOver returns when process 1 is a program of the image.
	AwaitHandOver(limit time.Duration) error
	// SignalProcess1 sends process 1 a signal as soon as it would take it.
	SignalProcess1(s unix.Signal, limit time.Duration) error
}

// Linux is the kernel that the agent runs on.
type Linux struct{}

// SetHostname sets the host name of the agent's UTS namespace.
func (Linux) SetHostname(name string) error {
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	return nil
}

// InMemory implements Kernel.
func (Linux) InMemory(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("cannot look at the filesystem of %s: %w", dir, err)
	}
	if fs.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("%s is not in memory in this guest", dir)
	}
	return nil
}

// SetInterface implements Kernel.
func (Linux) SetInterface(name string, addresses []netip.Prefix, routes []proto.Route) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE) // one socket for all requests
	if err != nil {
		return fmt.Errorf("cannot talk to the kernel about its network: %w", err)
	}
	defer h.Close()
	if err := setUp(h, "lo"); err != nil {
		return err
	}
	if len(addresses) == 0 {
		return nil // a guest without a network
	}
	link, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("cannot find the network interface %s: %w", name, err)
	}
	if err := setAddresses(h, link, addresses); err != nil {
		return fmt.Errorf("cannot set the addresses of %s: %w", name, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot bring %s up: %w", name, err)
	}
	if err := setRoutes(h, link, routes); err != nil {
		return fmt.Errorf("cannot set the routes of %s: %w", name, err)
	}
	return nil
}

func setUp(h *netlink.Handle, name string) error {
	link, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(link)
	}
	if err != nil {
		return fmt.Errorf("cannot bring %s up: %w", name, err)
	}
	return nil
}

func setAddresses(h *netlink.Handle, link netlink.Link, wanted []netip.Prefix) error {
	have, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	missing := map[netip.Prefix]bool{}
	for _, p := range wanted {
		missing[p] = true
	}
	for _, addr := range have {
		p := prefixOf(addr.IPNet)
		switch {
		case missing[p]:
			delete(missing, p)
		case p.Addr().IsLinkLocalUnicast():
		default:
			if err := h.AddrDel(link, &addr); err != nil {
				return err
			}
		}
	}
	for p := range missing {
		if err := h.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return err
		}
	}
	return nil
}

// setRoutes makes the routes through a gateway that the interface has exactly
// the wanted ones.
func setRoutes(h *netlink.Handle, link netlink.Link, wanted []proto.Route) error {
	have, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	missing := map[proto.Route]bool{}
	for _, r := range wanted {
		missing[proto.Route{To: r.To.Masked(), Via: r.Via}] = true
	}
	for _, route := range have {
		r := routeOf(route)
		switch {
		case missing[r]:
			delete(missing, r)
		case route.Gw != nil:
			if err := h.RouteDel(&route); err != nil {
				return err
			}
		}
	}
	for r := range missing {
		if err := h.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To), Gw: r.Via.AsSlice()}); err != nil {
			return err
		}
	}
	return nil
}

func routeOf(r netlink.Route) proto.Route {
	via, _ := netip.AddrFromSlice(r.Gw)
	via = via.Unmap()
	if r.Dst == nil {
		return proto.Route{To: netip.PrefixFrom(anyAddress(via), 0), Via: via}
	}
	return proto.Route{To: prefixOf(r.Dst), Via: via}
}

func anyAddress(like netip.Addr) netip.Addr {
	if like.Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	addr, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// SetClock sets the guest's wall clock.
func (Linux) SetClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	return nil
}

// AddEntropy mixes seed into the kernel's random generator, credits it, and
// makes the generator use it at once: after a snapshot two guests must not draw
// the same numbers. The ioctls are those of random(4).
func (Linux) AddEntropy(seed []byte) error {
	f, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("cannot open the random generator: %w", err)
	}
	defer f.Close()
	pool := binary.NativeEndian.AppendUint32(nil, uint32(len(seed)*8)) // bits credited
	pool = binary.NativeEndian.AppendUint32(pool, uint32(len(seed)))
	pool = append(pool, seed...)
	if err := ioctl(f, unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&pool[0]))); err != nil {
		return fmt.Errorf("cannot add to the random generator: %w", err)
	}
	if err := ioctl(f, rndReseedCRNG, 0); err != nil {
		return fmt.Errorf("cannot reseed the random generator: %w", err)
	}
	return nil
}

const rndReseedCRNG = 0x5207 // linux/random.h: _IO('R', 0x07)

func ioctl(f *os.File, request, arg uintptr) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, arg); errno != 0 {
		return errno
	}
	return nil
}

// AwaitHandOver implements Kernel. The agent is started before banger-init
// executes the image's init, and a signal in between would be the wrong
// program's.
func (Linux) AwaitHandOver(limit time.Duration) error {
	if !eventually(limit, handedOver) {
		return errors.New("the image's init has not started")
	}
	return nil
}

// handedOver says whether process 1's program lies on the image's filesystem,
// which is the agent's root, and not in the initramfs.
func handedOver() bool {
	var program, root unix.Stat_t
	return unix.Stat("/proc/1/exe", &program) == nil && unix.Stat("/", &root) == nil && program.Dev == root.Dev
}

// SignalProcess1 implements Kernel. The kernel throws signals away that process
// 1 has no handler for; a moment after its start systemd has none.
func (Linux) SignalProcess1(s unix.Signal, limit time.Duration) error {
	if !eventually(limit, func() bool { return takesSignal("/proc/1/status", s) || waitsForSignal("/proc/1/syscall") }) {
		return fmt.Errorf("process 1 does not take signal %d", s)
	}
	if err := unix.Kill(1, s); err != nil {
		return fmt.Errorf("cannot signal process 1: %w", err)
	}
	return nil
}

// eventually waits for what nothing tells of: it looks again and again, ever
// more seldom.
func eventually(limit time.Duration, holds func() bool) bool {
	deadline := time.Now().Add(limit)
	pause := 5 * time.Millisecond
	for !holds() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(pause)
		pause = min(2*pause, time.Second/2)
	}
	return true
}

// waitsForSignal says whether the process sleeps in sigtimedwait(2), as
// busybox's init does: for as long the kernel shows what it waits for as
// neither caught nor blocked. call is its /proc/<pid>/syscall.
func waitsForSignal(call string) bool {
	text, err := os.ReadFile(call)
	number, _, _ := strings.Cut(string(text), " ")
	return err == nil && number == strconv.Itoa(unix.SYS_RT_SIGTIMEDWAIT)
}

// takesSignal says whether the process catches s, or blocks it to read it from
// a signalfd. status is its /proc/<pid>/status.
func takesSignal(status string, s unix.Signal) bool {
	text, err := os.ReadFile(status)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "SigCgt" && name != "SigBlk" {
			continue
		}
		mask, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err == nil && mask&(1<<(s-1)) != 0 {
			return true
		}
	}
	return false
}
