// Command guest is the first process of the guests that fcqemu's tests boot.
// It loads the modules of the kernel's initramfs, then does what the words
// after do= on the kernel's command line say, then what it is told on the
// serial console, one word a line. Its answers are lines on the console.
package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/serialmux"
)

func main() {
	mount()
	loadModules()
	fmt.Println("guest: up")
	for _, word := range strings.Fields(read("/proc/cmdline")) {
		if list, ok := strings.CutPrefix(word, "do="); ok {
			for _, verb := range strings.Split(list, ",") {
				do(verb)
			}
		}
	}
	fmt.Println("guest: done")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		do(strings.TrimSpace(lines.Text()))
	}
	select {}
}

func mount() {
	for dir, kind := range map[string]string{"/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs"} {
		must(os.MkdirAll(dir, 0o755))
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil && err != unix.EBUSY {
			must(err)
		}
	}
}

func loadModules() {
	for _, name := range strings.Fields(read("/modules/order")) {
		f, err := os.Open("/modules/" + name)
		must(err)
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && err != unix.EEXIST {
			fmt.Println("guest: cannot load", name, err)
		}
		f.Close()
	}
}

func must(err error) {
	if err != nil {
		fmt.Println("guest: failed:", err)
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	}
}

func read(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

func do(verb string) {
	verb, arg, _ := strings.Cut(verb, ":")
	switch verb {
	case "":
	case "drives":
		drives()
	case "links":
		links()
	case "second":
		must(os.WriteFile("/sys/devices/system/cpu/cpu1/online", []byte("1"), 0))
	case "facts":
		facts()
	case "read":
		readDrive(arg)
	case "write":
		writeDrive(arg)
	case "random":
		random()
	case "udp":
		udp(arg)
	case "vsock":
		go vsock()
	case "tick":
		go tick()
	case "spam":
		spam()
	case "say":
		fmt.Println("say:", arg)
	case "reboot":
		must(unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
	case "poweroff":
		must(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
	case "panic":
		must(os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0))
	default:
		fmt.Println("guest: I don't know", verb)
	}
}

func drives() {
	dirs, _ := filepath.Glob("/sys/block/vd*")
	sort.Strings(dirs)
	for _, dir := range dirs {
		fmt.Printf("drive: %s sectors=%s ro=%s cache=%q discard=%s\n", filepath.Base(dir),
			read(dir+"/size"), read(dir+"/ro"), read(dir+"/queue/write_cache"), read(dir+"/queue/discard_max_bytes"))
	}
}

func links() {
	all, _ := net.Interfaces()
	for _, l := range all {
		if l.HardwareAddr != nil {
			fmt.Println("link:", l.Name, l.HardwareAddr)
		}
	}
}

func facts() {
	memory, _, _ := strings.Cut(read("/proc/meminfo"), "\n")
	cpus, _ := filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*")
	fmt.Println("fact:", strings.Join(strings.Fields(memory), " "))
	fmt.Println("fact: cpus", len(cpus))
	fmt.Println("fact: threads", read("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list"))
	fmt.Println("fact: clocksource", read("/sys/devices/system/clocksource/clocksource0/current_clocksource"))
	fmt.Println("fact: rng", read("/sys/class/misc/hw_random/rng_current"))
	fmt.Println("fact: cmdline", read("/proc/cmdline"))
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if value, ok := strings.CutPrefix(line, "bogomips\t: "); ok {
			fmt.Println("fact: bogomips", strings.TrimSpace(value))
		}
	}
}

// readDrive prints the first bytes of a drive, up to the first zero.
func readDrive(name string) {
	f, err := os.Open("/dev/" + name)
	must(err)
	defer f.Close()
	head := make([]byte, 512)
	_, err = io.ReadFull(f, head)
	must(err)
	text, _, _ := bytes.Cut(head, []byte{0})
	fmt.Printf("read: %s %s\n", name, text)
}

// writeDrive puts words at the front of a drive, and syncs.
func writeDrive(arg string) {
	name, words, _ := strings.Cut(arg, ":")
	f, err := os.OpenFile("/dev/"+name, os.O_WRONLY, 0)
	if err != nil {
		fmt.Println("write:", name, err)
		return
	}
	defer f.Close()
	sector := make([]byte, 512)
	copy(sector, words)
	_, err = f.Write(sector)
	if err == nil {
		err = f.Sync()
	}
	fmt.Println("write:", name, err)
}

func random() {
	f, err := os.Open("/dev/hwrng")
	must(err)
	defer f.Close()
	b := make([]byte, 8)
	_, err = io.ReadFull(f, b)
	fmt.Println("random:", len(b), err)
}

func tick() {
	for {
		fmt.Println("tick:", time.Now().UnixNano())
		time.Sleep(100 * time.Millisecond)
	}
}

// spam writes far more than a pipe holds, and says so last.
func spam() {
	line := strings.Repeat("x", 79) + "\n"
	for range 4000 {
		os.Stdout.WriteString(line)
	}
	fmt.Println("spam: over")
}

// udp takes "address/bits:peer:port", gives eth0 the address, and prints what
// the peer answers to "from the guest".
func udp(arg string) {
	address, peer, _ := strings.Cut(arg, ":")
	eth0, err := netlink.LinkByName("eth0")
	must(err)
	addr, err := netlink.ParseAddr(address)
	must(err)
	must(netlink.AddrAdd(eth0, addr))
	must(netlink.LinkSetUp(eth0))
	conn, err := net.Dial("udp", peer)
	must(err)
	answer := make([]byte, 100)
	for {
		_, _ = conn.Write([]byte("from the guest"))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(answer); err == nil {
			fmt.Printf("udp: %s\n", answer[:n])
			return
		}
	}
}

// vsock serves the guest's end of the vsock: port 7 echoes.
func vsock() {
	port := portNamed(proto.SerialPort)
	f, err := os.OpenFile("/dev/"+port, os.O_RDWR, 0)
	must(err)
	fmt.Println("vsock:", port)
	must(serialmux.Guest(f, func(m *serialmux.Mux) {
		for {
			conn, port, err := m.Accept()
			if err != nil {
				return
			}
			if port != 7 {
				conn.Close()
				continue
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}))
}

func portNamed(name string) string {
	files, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, file := range files {
		if read(file) == name {
			return filepath.Base(filepath.Dir(file))
		}
	}
	must(fmt.Errorf("no port %s", name))
	return ""
}
