package fctest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"github.com/banger-vm/banger/internal/firecracker/fctest/script"
	"github.com/cavaliergopher/cpio"
	"golang.org/x/sys/unix"
)

// RunGuest holds the target to the rules that show only with a guest. It boots
// few guests, for a boot in software takes long: what leaves a guest as it was
// shares one.
func RunGuest(t *testing.T, target Target) {
	initrd := guestInitrd(t, target)
	t.Run("a guest", func(t *testing.T) { runSharedGuest(t, target, initrd) })
	t.Run("a guest's poweroff does not end the VMM", func(t *testing.T) {
		checkPowerOff(t, target, startGuest(t, target, initrd))
	})
	if !target.lacks("action_type") {
		t.Run("Ctrl-Alt-Del reaches the guest", func(t *testing.T) {
			checkKeys(t, startGuest(t, target, initrd))
		})
	}
	t.Run("what is no kernel does not start", func(t *testing.T) { checkNoKernel(t, start(t, target)) })
	t.Run("a configuration file boots at once", func(t *testing.T) { checkConfigFile(t, target, initrd) })
}

func runSharedGuest(t *testing.T, target Target, initrd string) {
	v := start(t, target)
	v.patience = target.patience()
	v.setUp(target, initrd)
	hello := v.listen(script.HelloPort)
	v.boot()
	for _, r := range []struct {
		name  string
		check func(t *testing.T, v *vmm)
	}{
		{"has what was configured", checkFacts},
		{"reaches the host by vsock", func(t *testing.T, v *vmm) { checkGuestStreams(t, v, hello) }},
		{"is reached by vsock", checkHostStreams},
		{"does nothing while paused, and loses nothing", checkPause},
		{"has its tap, opened by name", func(t *testing.T, v *vmm) { checkTap(t, target, v) }},
		{"takes no configuration any more", func(t *testing.T, v *vmm) { checkAfterStart(t, target, v) }},
		{"ends the VMM by its reset, with status 0", checkReset},
	} {
		t.Run(r.name, func(t *testing.T) {
			// A rule that fails stops there and leaves the guest to the next.
			own := *v
			own.t = t
			r.check(t, &own)
		})
	}
	if target.Tap != "" {
		if err := tryTap(target.Tap); err != nil {
			t.Errorf("the VMM has ended, and: %v", err)
		}
	}
}

// startGuest boots a guest.
func startGuest(t *testing.T, target Target, initrd string) *vmm {
	t.Helper()
	v := start(t, target)
	v.patience = target.patience()
	v.setUp(target, initrd)
	v.boot()
	return v
}

// guestInitrd is the target's initramfs with the test guest as first process:
// of two files with one name the kernel keeps the later.
func guestInitrd(t *testing.T, target Target) string {
	t.Helper()
	path := filepath.Join(workDir(t), "guest-initrd")
	if target.Memory {
		return filepath.Join(filepath.Dir(path), "initrd")
	}
	content, err := os.ReadFile(target.Initrd)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	archive.Write(content)
	if err := appendInit(&archive, guestProgram(t, target)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, archive.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func guestProgram(t *testing.T, target Target) []byte {
	t.Helper()
	bin := target.Guest
	if bin == "" {
		bin = buildGuest(t)
	}
	content, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func buildGuest(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "testguest")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "github.com/banger-vm/banger/internal/firecracker/fctest/testguest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return bin
}

func appendInit(to io.Writer, program []byte) error {
	w := cpio.NewWriter(to)
	header := &cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(program))}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	if _, err := w.Write(program); err != nil {
		return err
	}
	return w.Close()
}

// cmdline is quiet, for each byte on a console is dear, and resets at once.
const cmdline = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 net.ifnames=0 i8042.noaux i8042.nomux 8250.nr_uarts=1 banger.test=yes"

const guestMAC = "06:00:ac:10:00:02"

// setUp configures a machine: three drives in an order that is not that of
// their names, vsock, entropy, and the tap if there is one.
func (v *vmm) setUp(target Target, initrd string) {
	v.t.Helper()
	for name, to := range map[string]string{"guest-kernel": target.Kernel, "guest-initrd": initrd} {
		if target.Memory && name == "guest-kernel" {
			to = filepath.Join(v.dir, "kernel")
		}
		if err := os.Symlink(to, filepath.Join(v.dir, name)); err != nil {
			v.t.Fatal(err)
		}
	}
	for name, head := range map[string]string{"first": "first drive", "second": "second drive", "third": "third drive"} {
		if err := writeDisk(filepath.Join(v.dir, name), head); err != nil {
			v.t.Fatal(err)
		}
	}
	v.do(
		ok("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":256}`),
		ok("PUT", "/boot-source", fmt.Sprintf(`{"kernel_image_path":"guest-kernel","initrd_path":"guest-initrd","boot_args":%q}`, cmdline)),
		ok("PUT", "/drives/z", `{"drive_id":"z","is_root_device":false,"path_on_host":"first","is_read_only":true}`),
		ok("PUT", "/drives/m", `{"drive_id":"m","is_root_device":false,"path_on_host":"second","cache_type":"Writeback"}`),
		ok("PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"third"}`),
		ok("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`),
		ok("PUT", "/entropy", `{}`),
	)
	if target.Tap != "" {
		v.do(ok("PUT", "/network-interfaces/eth0", fmt.Sprintf(`{"iface_id":"eth0","host_dev_name":%q,"guest_mac":%q}`, target.Tap, guestMAC)))
	}
}

// diskSize is that of the first drive; the others are one and two MiB larger.
const diskSize = 1 << 20

func writeDisk(path, head string) error {
	size := map[string]int64{"first": diskSize, "second": 2 * diskSize, "third": 3 * diskSize}[filepath.Base(path)]
	if err := os.WriteFile(path, []byte(head), 0o600); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

// boot starts the machine and waits for the guest.
func (v *vmm) boot() {
	v.t.Helper()
	v.do(ok("PUT", "/actions", `{"action_type":"InstanceStart"}`))
	v.console.await(v.patience, script.Prefix+"ready")
}

func (v *vmm) path(name string) string { return filepath.Join(v.dir, name) }

// dialGuest connects to a vsock port of the guest.
func (v *vmm) dialGuest(port uint32) net.Conn {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), v.patience)
	defer cancel()
	conn, err := firecracker.DialVsock(ctx, v.path("v.sock"), port)
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(v.patience)); err != nil {
		v.t.Fatal(err)
	}
	return conn
}

// command tells the guest to do something.
func (v *vmm) command(line string) net.Conn {
	v.t.Helper()
	conn := v.dialGuest(script.CommandPort)
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		v.t.Fatal(err)
	}
	return conn
}

func (v *vmm) awaitEnd() int {
	v.t.Helper()
	select {
	case <-v.process.Done():
	case <-time.After(v.patience):
		v.t.Fatal("the VMM does not end")
	}
	status, _ := v.process.Exit()
	return status
}

func checkFacts(t *testing.T, v *vmm) {
	facts := strings.Join(v.console.facts(), "\n")
	for _, fact := range []string{
		"disk vda 2048 ro=true head=\"first drive\"",
		"disk vdb 4096 ro=false head=\"second drive\"",
		"disk vdc 6144 ro=false head=\"third drive\"",
		"banger.test=yes",
	} {
		if !strings.Contains(facts, fact) {
			t.Errorf("the guest says:\n%s\nexpected in it: %s", facts, fact)
		}
	}
	if strings.Contains(facts, "root=") {
		t.Errorf("without a root drive there is a root= in:\n%s", facts)
	}
	v.do(get("/", `"state":"Running"`))
}

func checkReset(t *testing.T, v *vmm) {
	v.command("reset")
	if status := v.awaitEnd(); status != 0 {
		t.Errorf("it ended with %d", status)
	}
	for _, name := range []string{firecracker.APISocket, firecracker.VsockSocket} {
		if _, err := os.Lstat(v.path(name)); err != nil {
			t.Errorf("a socket did not stay: %v", err)
		}
	}
}

// stays is how long a VMM must live on, to have outlived something.
const stays = time.Second

func checkPowerOff(t *testing.T, target Target, v *vmm) {
	v.command("poweroff")
	// "Power down", or "System halted" where the kernel knows no way to power off.
	last := "reboot: "
	if target.Memory {
		last = script.Prefix + "powers off"
	}
	v.console.await(v.patience, last)
	select {
	case <-v.process.Done():
		status, _ := v.process.Exit()
		t.Fatalf("it ended, with status %d", status)
	case <-time.After(stays):
	}
	v.do(get("/", `"state":"Running"`))
}

func checkHostStreams(t *testing.T, v *vmm) {
	t.Run("to a listener, with each end of it", func(t *testing.T) {
		conn := v.dialGuest(script.EchoPort)
		sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
		go conn.Write(sent)
		got := make([]byte, len(sent))
		if n, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back of %d (%v)", n, len(sent), err)
		}
		// Firecracker takes the host's half-close for the end of both
		// directions, so nothing may be under way.
		conn.(interface{ CloseWrite() error }).CloseWrite()
		if rest, err := io.ReadAll(conn); err != nil || len(rest) > 0 {
			t.Errorf("%d bytes more came back, and %v for the end", len(rest), err)
		}
	})
	t.Run("many at once", func(t *testing.T) {
		var conns []net.Conn
		for range 20 {
			conns = append(conns, v.dialGuest(script.EchoPort))
		}
		for i, conn := range conns {
			echoOnce(t, conn, fmt.Sprintf("stream %d", i))
		}
	})
	t.Run("to nobody", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), v.patience)
		defer cancel()
		if _, err := firecracker.DialVsock(ctx, v.path("v.sock"), 9999); !errors.Is(err, firecracker.ErrNoListener) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("after a bad line", func(t *testing.T) {
		for _, line := range []string{"HELLO 5000 x\n", "CONNECT x5000\n", "CONNECT 99999999999\n"} {
			checkBadLine(t, v, line)
		}
	})
	t.Run("whatever case the word has", func(t *testing.T) {
		conn, err := net.Dial("unix", v.path("v.sock"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if answer := exchange(t, conn, fmt.Sprintf("connect %d\n", script.EchoPort)); !strings.HasPrefix(answer, "OK ") {
			t.Errorf("the answer is %q", answer)
		}
	})
}

func checkBadLine(t *testing.T, v *vmm, line string) {
	conn, err := net.Dial("unix", v.path("v.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(v.patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, line); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); len(got) != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%q is answered %q (%v)", line, got, err)
	}
}

func echoOnce(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
		t.Errorf("%q came back as %q (%v)", text, got, err)
	}
}

func checkGuestStreams(t *testing.T, v *vmm, hello net.Listener) {
	t.Run("once it is up", func(t *testing.T) { acceptGreeting(t, hello) })
	t.Run("to another port", func(t *testing.T) {
		other := v.listen(6000)
		v.command("dial 6000")
		acceptGreeting(t, other)
	})
	t.Run("to nobody", func(t *testing.T) {
		answer, err := io.ReadAll(v.command("dial 6001"))
		if err != nil || !strings.Contains(string(answer), "\n") || strings.Contains(string(answer), "<nil>") {
			t.Errorf("the guest says %q (%v)", answer, err)
		}
	})
}

func (v *vmm) listen(port int) *net.UnixListener {
	v.t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("%s_%d", v.path("v.sock"), port), Net: "unix"})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { listener.Close() })
	if err := listener.SetDeadline(time.Now().Add(v.patience)); err != nil {
		v.t.Fatal(err)
	}
	return listener
}

func acceptGreeting(t *testing.T, listener net.Listener) {
	t.Helper()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if text, err := io.ReadAll(conn); err != nil || string(text) != script.Greeting {
		t.Errorf("the guest says %q (%v)", text, err)
	}
}

// quiet is how long a paused guest must be silent, to have been paused.
const quiet = 300 * time.Millisecond

func checkPause(t *testing.T, v *vmm) {
	conn := v.dialGuest(script.EchoPort)
	echoOnce(t, conn, "before")
	pause, resume := v.pauseAndResume()
	for range 2 {
		pause()
	}
	if _, err := io.WriteString(conn, "while paused"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a paused guest answered (%d bytes, %v)", n, err)
	}
	for range 2 {
		resume()
	}
	if err := conn.SetReadDeadline(time.Now().Add(v.patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("while paused"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "while paused" {
		t.Fatalf("after the pause %q came back (%v)", got, err)
	}
	echoOnce(t, v.dialGuest(script.EchoPort), "a new stream after the pause")
}

// pauseAndResume are by the API, but for releases that would lose the vsock:
// those are stopped and continued.
func (v *vmm) pauseAndResume() (pause, resume func()) {
	if v.version.LosesVsockOnResume() {
		return func() { v.signal(unix.SIGSTOP) }, func() { v.signal(unix.SIGCONT) }
	}
	pause = func() { v.do(ok("PATCH", "/vm", `{"state":"Paused"}`), get("/", `"state":"Paused"`)) }
	resume = func() { v.do(ok("PATCH", "/vm", `{"state":"Resumed"}`), get("/", `"state":"Running"`)) }
	return pause, resume
}

func (v *vmm) signal(s unix.Signal) {
	v.t.Helper()
	if err := v.process.Signal(s); err != nil {
		v.t.Fatal(err)
	}
}

func checkAfterStart(t *testing.T, target Target, v *vmm) {
	const says = "The requested operation is not supported after starting the microVM."
	v.do(
		refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, says),
		refused("PUT", "/boot-source", `{"kernel_image_path":"kernel"}`, says),
		refused("PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, says),
		refused("PATCH", "/machine-config", `{"vcpu_count":1}`, says),
		refused("PUT", "/vsock", `{"guest_cid":3,"uds_path":"w.sock"}`, says),
		refused("PUT", "/entropy", `{}`, says),
		refused("PUT", "/balloon", `{"amount_mib":1,"deflate_on_oom":true}`, says),
		refused("PUT", "/logger", `{"level":"Info"}`, says),
		refused("PUT", "/metrics", `{"metrics_path":"disk1"}`, says),
		refused("PUT", "/mmds/config", `{"network_interfaces":["x"]}`, says),
		refused("PATCH", "/drives/nope", `{"drive_id":"nope","path_on_host":"disk1"}`, "Unable to patch the block device"),
		refused("PATCH", "/balloon", `{"amount_mib":1}`, "alloon"), // releases say it in other words
		refused("PATCH", "/vm", `{"state":"Foo"}`, "unknown variant `Foo`"),
		ok("PUT", "/actions", `{"action_type":"FlushMetrics"}`),
		get("/vm/config", `"kernel_image_path":"guest-kernel"`),
	)
	if !v.version.AtLeast(mustVersion("1.16")) {
		v.do(refused("PUT", "/drives/b", `{"drive_id":"b","is_root_device":false,"path_on_host":"disk1"}`, says))
	}
	patch := ok("PATCH", "/drives/m", `{"drive_id":"m","path_on_host":"third"}`)
	if target.lacks("path_on_host") {
		patch = refused(patch.method, patch.path, patch.body, "`path_on_host`")
	}
	v.do(patch)
	if target.lacks("action_type") {
		v.do(refused("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`, "`action_type`"))
	}
}

func checkKeys(t *testing.T, v *vmm) {
	v.do(ok("PUT", "/actions", `{"action_type":"SendCtrlAltDel"}`))
	v.console.await(v.patience, script.Prefix+"ctrl-alt-del")
	if status := v.awaitEnd(); status != 0 {
		t.Errorf("it ended with %d", status)
	}
}

func checkTap(t *testing.T, target Target, v *vmm) {
	if target.Tap == "" {
		return
	}
	if facts := strings.Join(v.console.facts(), "\n"); !strings.Contains(facts, "network eth0 "+guestMAC) {
		t.Errorf("the guest says:\n%s\nexpected in it eth0 with %s", facts, guestMAC)
	}
	if err := tryTap(target.Tap); err == nil {
		t.Errorf("nobody has the tap %s", target.Tap)
	}
}

// tryTap fails when somebody has the tap.
func tryTap(name string) error {
	tap, err := fcserver.OpenTap(name)
	if err != nil {
		return err
	}
	return tap.Close()
}

func checkNoKernel(t *testing.T, v *vmm) {
	v.do(
		ok("PUT", "/boot-source", `{"kernel_image_path":"notelf"}`),
		refused("PUT", "/actions", `{"action_type":"InstanceStart"}`, "Start microvm error:"),
		get("/", `"state":"Not started"`),
	)
}

func checkConfigFile(t *testing.T, target Target, initrd string) {
	dir := workDir(t)
	kernel := target.Kernel
	if target.Memory {
		kernel = "kernel"
	}
	if err := writeDisk(filepath.Join(dir, "first"), "root drive"); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`{
		"boot-source": {"kernel_image_path": %q, "initrd_path": %q, "boot_args": %q},
		"drives": [{"drive_id": "r", "is_root_device": true, "is_read_only": true, "path_on_host": "first"}],
		"machine-config": {"vcpu_count": 1, "mem_size_mib": 256},
		"vsock": {"guest_cid": 3, "uds_path": "v.sock"}
	}`, kernel, initrd, cmdline)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	console := newConsole(t)
	cmd := exec.Command(target.Bin, "--no-api", "--config-file", "config.json", "--id", "from-file", "--level", "Error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, console.pipe, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &vmm{t: t, dir: dir, console: console, patience: target.patience()}
	stop := time.AfterFunc(v.patience, func() { cmd.Process.Kill() })
	defer stop.Stop()
	console.pipe.Close()
	console.await(v.patience, script.Prefix+"ready")
	if facts := strings.Join(console.facts(), "\n"); !strings.Contains(facts, "root=/dev/vda ro") {
		t.Errorf("the guest says:\n%s\nexpected in it: root=/dev/vda ro", facts)
	}
	if _, err := os.Lstat(filepath.Join(dir, "api.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there is an API socket (%v)", err)
	}
	v.command("reset")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended: %v", err)
	}
}
