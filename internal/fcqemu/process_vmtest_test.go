//go:build vmtest

package fcqemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/firecracker"
)

// nobody is the user that the tests' VMMs run as.
const nobody = 65534

// fcqemuProcess is a running fcqemu.
type fcqemuProcess struct {
	*testGuest // its console only
	*firecracker.Client
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
	told chan string // the log's lines
}

// programDir is where buildVMM built, to be removed at the end.
var programDir string

// buildVMM is the directory of a fresh fcqemu that everybody can read.
var buildVMM = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fcqemu-program-")
	if err != nil {
		return "", err
	}
	programDir = dir
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "fcqemu"), "github.com/banger-vm/banger/cmd/fcqemu")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build fcqemu: %w\n%s", err, out)
	}
	return dir, os.Chmod(dir, 0o755)
})

// startVMM runs fcqemu as nobody in a directory of its own.
func startVMM(t testing.TB) *fcqemuProcess {
	t.Helper()
	programs, err := buildVMM()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "fcqemu-vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	lay(t, filepath.Join(kernelDir(t), "vmlinux"), filepath.Join(dir, "kernel"))
	lay(t, buildInitramfs(t), filepath.Join(dir, "initrd"))
	if err := unix.Mkfifo(filepath.Join(dir, "log"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Both ends, so that neither opening waits for the other.
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	for _, path := range []string{dir, filepath.Join(dir, "log")} {
		if err := os.Chown(path, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	console, out := pipe(t)
	in, keys := pipe(t)
	v := &fcqemuProcess{t: t, dir: dir, done: make(chan struct{}), told: make(chan string, 10_000)}
	v.testGuest = &testGuest{t: t, lines: make(chan string, 100_000), keys: keys, log: &logLines{}}
	v.cmd = exec.Command(filepath.Join(programs, "fcqemu"), "--api-sock", "api.sock", "--id", "test", "--log-path", "log", "--level", "Info")
	stderr, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	v.cmd.Dir, v.cmd.Env, v.cmd.Stdin, v.cmd.Stdout, v.cmd.Stderr = dir, []string{}, in, out, stderr
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	out.Close()
	go scan(console, v.lines)
	go func() { _ = v.cmd.Wait(); close(v.done) }()
	t.Cleanup(v.cleanUp)
	serving := make(chan struct{})
	go v.readLog(log, serving)
	select {
	case <-serving:
	case <-v.done:
		t.Fatal("fcqemu has ended at once")
	}
	v.Client = firecracker.NewClient(filepath.Join(dir, "api.sock"))
	return v
}

// lay puts a copy of a file where nobody can read it.
func lay(t testing.TB, from, to string) {
	t.Helper()
	if os.Link(from, to) == nil {
		return
	}
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if _, err := io.Copy(dst, src); err != nil {
		t.Fatal(err)
	}
}

func (v *fcqemuProcess) cleanUp() {
	_ = v.cmd.Process.Kill()
	<-v.done
	if v.t.Failed() {
		v.t.Logf("console:\n%s\nlog:\n%s", strings.Join(v.seen, "\n"), v.log.text())
	}
}

// readLog collects the log's lines, and closes serving when the API answers.
func (v *fcqemuProcess) readLog(log io.Reader, serving chan<- struct{}) {
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		v.log.logf("%s", lines.Text())
		v.told <- lines.Text()
		if strings.Contains(lines.Text(), "API server started") {
			close(serving)
		}
	}
}

// tells waits for a line of the log that contains text.
func (v *fcqemuProcess) tells(text string) {
	v.t.Helper()
	late := time.After(bootTime)
	for {
		select {
		case line := <-v.told:
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			v.t.Fatalf("the log does not tell %q", text)
		}
	}
}

// must fails the test when a request fails.
func (v *fcqemuProcess) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

// configure sets up a guest that does what the verbs say.
func (v *fcqemuProcess) configure(verbs string) {
	v.t.Helper()
	ctx := context.Background()
	args := quiet + " do=" + verbs
	v.must(v.PutMachineConfig(ctx, firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 256}))
	v.must(v.PutBootSource(ctx, firecracker.BootSource{KernelImagePath: "kernel", InitrdPath: "initrd", BootArgs: &args}))
}

// status waits for fcqemu's end and gives its exit status, -1 for a signal.
func (v *fcqemuProcess) status() int {
	v.t.Helper()
	select {
	case <-v.done:
		return v.cmd.ProcessState.ExitCode()
	case <-time.After(bootTime):
		v.t.Fatal("fcqemu did not end")
		return 0
	}
}

// child is the process id of its QEMU, waited for. Go has a child of its own
// for a moment before, to see what the kernel can do.
func (v *fcqemuProcess) child() int {
	v.t.Helper()
	path := fmt.Sprintf("/proc/%d/task/%d/children", v.cmd.Process.Pid, v.cmd.Process.Pid)
	deadline := time.Now().Add(bootTime)
	for time.Now().Before(deadline) {
		children, _ := os.ReadFile(path)
		for _, pid := range strings.Fields(string(children)) {
			program, _ := os.Readlink("/proc/" + pid + "/exe")
			if strings.HasPrefix(filepath.Base(program), "qemu-") {
				n, _ := strconv.Atoi(pid)
				return n
			}
		}
	}
	v.t.Fatal("there is no QEMU")
	return 0
}

// gone waits until a process has ended.
func gone(t testing.TB, pidfd int) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 10_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 {
			t.Fatalf("the process lives on: %v", err)
		}
		return
	}
}

func TestAWholeLifeByTheAPI(t *testing.T) {
	ctx := context.Background()
	v := startVMM(t)
	v.configure("vsock,facts")
	v.must(v.PutVsock(ctx, firecracker.Vsock{GuestCID: 3, UDSPath: "v.sock"}))
	v.must(v.PutEntropy(ctx, firecracker.Entropy{}))
	v.must(v.InstanceStart(ctx))
	v.expect("guest: done")

	conn, err := firecracker.DialVsock(ctx, filepath.Join(v.dir, "v.sock"), 7)
	v.must(err)
	echo(t, conn, 4<<20)

	v.must(v.PatchVM(ctx, firecracker.Paused))
	info, err := v.Describe(ctx)
	v.must(err)
	if want := (firecracker.InstanceInfo{ID: "test", State: firecracker.StatePaused, VMMVersion: info.VMMVersion, AppName: "fcqemu"}); info != want {
		t.Errorf("got %+v, want %+v", info, want)
	}
	v.must(v.PatchVM(ctx, firecracker.Resumed))

	v.isConfined(v.child())
	v.say("reboot")
	if status := v.status(); status != 0 {
		t.Errorf("status %d, want 0", status)
	}
	v.tells("the guest has reset the machine")
}

// isConfined checks that QEMU is nobody, with no more groups, capabilities or
// system calls than it needs.
func (v *fcqemuProcess) isConfined(pid int) {
	v.t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	v.must(err)
	defer f.Close()
	want := map[string]string{
		"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534",
		"CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.Join(strings.Fields(value), " ")
		if w, ok := want[name]; ok && value != w {
			v.t.Errorf("QEMU has %s %s, want %s", name, value, w)
		}
		delete(want, name)
	}
	if len(want) > 0 {
		v.t.Errorf("QEMU's status lacks %v", want)
	}
}

func TestNeitherProcessSurvivesTheOther(t *testing.T) {
	signal := func(sigs ...syscall.Signal) func(*testing.T, *fcqemuProcess, int) {
		return func(t *testing.T, v *fcqemuProcess, _ int) {
			for _, s := range sigs {
				if err := v.cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for name, c := range map[string]struct {
		booted bool
		kill   func(t *testing.T, v *fcqemuProcess, qemu int)
		status int
	}{
		"fcqemu is killed":                {true, signal(syscall.SIGKILL), -1},
		"fcqemu is told to end":           {true, signal(syscall.SIGTERM), -1},
		"fcqemu is stopped, then killed":  {true, signal(syscall.SIGSTOP, syscall.SIGKILL), -1},
		"fcqemu aborts":                   {true, signal(syscall.SIGABRT), 2},
		"fcqemu is killed while it boots": {false, signal(syscall.SIGKILL), -1},
		"QEMU is killed": {true, func(t *testing.T, _ *fcqemuProcess, qemu int) {
			if err := syscall.Kill(qemu, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}, 128 + 9},
		"QEMU is told to end": {true, func(t *testing.T, _ *fcqemuProcess, qemu int) {
			if err := syscall.Kill(qemu, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := startVMM(t)
			v.configure("tick")
			started := make(chan error, 1)
			go func() { started <- v.InstanceStart(context.Background()) }()
			qemu := v.child()
			pidfd, err := unix.PidfdOpen(qemu, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			if c.booted {
				v.must(<-started)
				v.expect("tick:")
			}
			c.kill(t, v, qemu)
			gone(t, pidfd)
			if status := v.status(); status != c.status {
				t.Errorf("fcqemu ended with %d, want %d", status, c.status)
			}
		})
	}
}

func TestATapCarriesTheGuestsFrames(t *testing.T) {
	// A thread with a network and mounts of its own; it ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
		t.Fatalf("cannot make a network namespace, which takes root: %v", err)
	}
	makeTap(t, "fcqtap0", "192.0.2.1/24")
	lendTun(t)
	host, err := net.ListenPacket("udp4", "192.0.2.1:4242")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	go answerUDP(host)

	ctx := context.Background()
	v := startVMM(t)
	v.configure("links,udp:192.0.2.2/24:192.0.2.1:4242")
	v.must(v.PutNetworkInterface(ctx, firecracker.NetworkInterface{IfaceID: "eth0", HostDevName: "fcqtap0", GuestMAC: "02:00:00:00:00:07"}))
	v.must(v.InstanceStart(ctx))
	if got := v.expect("link:"); got != "link: eth0 02:00:00:00:00:07" {
		t.Errorf("got %q", got)
	}
	if got := v.expect("udp:"); got != "udp: hello, from the guest" {
		t.Errorf("got %q", got)
	}
	v.isConfined(v.child())
}

// makeTap makes a tap that nobody may open.
func makeTap(t *testing.T, name, address string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	tap := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI | netlink.TUNTAP_VNET_HDR, Owner: nobody, Group: nobody}
	if err := netlink.LinkAdd(tap); err != nil {
		t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		t.Fatal(err)
	}
}

// lendTun puts a /dev/net/tun of nobody's own in this thread's mounts.
func lendTun(t *testing.T) {
	t.Helper()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(dir, "tun")
	err := errors.Join(
		unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 200))),
		os.Chown(node, nobody, nobody),
		unix.Mount(node, "/dev/net/tun", "", unix.MS_BIND, ""),
		unix.Unmount(dir, unix.MNT_DETACH),
	)
	if err != nil {
		t.Fatal(err)
	}
}

func answerUDP(host net.PacketConn) {
	words := make([]byte, 100)
	for {
		n, from, err := host.ReadFrom(words)
		if err != nil {
			return
		}
		_, _ = host.WriteTo([]byte("hello, "+string(words[:n])), from)
	}
}
