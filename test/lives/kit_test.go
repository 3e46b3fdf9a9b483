//go:build hosttest

package lives

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
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/testenv"
	"github.com/banger-vm/banger/test/agree"
)

// patience is for anything that takes milliseconds on an idle machine.
const patience = 30 * time.Second

// programs is what TestMain built, laid out as it is installed.
var programs string

func TestMain(m *testing.M) {
	status, err := inWorld(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(status)
}

func inWorld(tests func() int) (int, error) {
	if err := testenv.Enter(); err != nil {
		return 0, err
	}
	world, err := testenv.NewWorld()
	if err != nil {
		return 0, err
	}
	defer world.Close()
	programs, err = os.MkdirTemp("/var/tmp", "banger-lives")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	if err := build(); err != nil {
		return 0, err
	}
	return tests(), nil
}

// build makes banger, bangerd, the VMM, and what stands for the guest's programs, which
// no guest here looks at.
func build() error {
	companions := filepath.Join(programs, "lib/banger")
	if err := os.MkdirAll(companions, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"banger-init", "banger-vsock-agent"} {
		if err := os.WriteFile(filepath.Join(companions, name), []byte("\x7fELF"), 0o755); err != nil {
			return err
		}
	}
	for path, source := range map[string]string{"bin/banger": "../../cmd/banger", "bin/bangerd": "../../cmd/bangerd", "vmm": "./vmm"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(programs, path), source).CombinedOutput()
		if err != nil {
			return fmt.Errorf("cannot build %s: %w\n%s", source, err, out)
		}
	}
	return mke2fs(filepath.Join(programs, "rootfs.ext4"))
}

func mke2fs(path string) error {
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", path, "16M").CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make a filesystem: %w\n%s", err, out)
	}
	return nil
}

// station is one user's banger: directories, settings and at most one daemon.
type station struct {
	*testing.T
	dir     string // all but the runtime directory
	runtime string
	clock   string   // a FIFO that says when the host slept; "" is the kernel's clock
	halts   string   // where a FIFO halts the daemon at the step that it is named for
	more    []string // settings, beside those that each station has
	log     journal
	daemon  *daemon
	client  *client.Client
	said    *command // what banger was told last
}

const (
	bridge = "bl0"
	image  = "tiny"
)

// ownRange keeps a station's guests away from the ranges that banger picks itself.
var ownRange = []string{"BANGER_BRIDGE_IP=10.78.0.1", "BANGER_CIDR=10.78.0.0/24"}

// newStation makes a station with an image and a kernel and no daemon. At the
// test's end it looks whether anything is left.
func newStation(t *testing.T) *station {
	t.Helper()
	runtime, err := os.MkdirTemp("/tmp", "bl") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	s := &station{T: t, dir: t.TempDir(), runtime: runtime, halts: t.TempDir(), more: ownRange}
	s.client = client.New(client.Options{Runtime: filepath.Join(runtime, "banger")})
	t.Cleanup(s.tidy)
	s.check(os.MkdirAll(filepath.Join(s.dir, "home"), 0o755))
	s.makeKernel()
	s.start()
	_, err = s.client.RegisterImage(t.Context(), api.RegisterImage{Name: image, Rootfs: filepath.Join(programs, "rootfs.ext4")})
	s.check(err)
	s.stop()
	return s
}

// makeKernel puts a kernel into the store that the VMM takes for one.
func (s *station) makeKernel() {
	s.Helper()
	dir := filepath.Join(s.dir, "data/banger/kernels/generic-6.12")
	s.check(os.MkdirAll(dir, 0o755))
	elf := append([]byte("\x7fELF"), make([]byte, 60)...)
	record := `{"format": 2, "name": "generic-6.12", "release": "6.12.0", "source": "catalog", "created": "2025-01-01T00:00:00Z", "early": []}`
	s.check(os.WriteFile(filepath.Join(dir, "vmlinux"), elf, 0o644))
	s.check(os.WriteFile(filepath.Join(dir, "modules.ext4"), make([]byte, 4096), 0o644))
	s.check(os.WriteFile(filepath.Join(dir, "kernel.json"), []byte(record), 0o644))
}

func (s *station) check(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *station) env() []string {
	return append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + filepath.Join(s.dir, "home"),
		"XDG_CONFIG_HOME=" + filepath.Join(s.dir, "config"),
		"XDG_DATA_HOME=" + filepath.Join(s.dir, "data"),
		"XDG_STATE_HOME=" + filepath.Join(s.dir, "state"),
		"XDG_CACHE_HOME=" + filepath.Join(s.dir, "cache"),
		"XDG_RUNTIME_DIR=" + s.runtime,
		"BANGER_VMM=firecracker",
		"BANGER_FIRECRACKER_BIN=" + filepath.Join(programs, "vmm"),
		"BANGER_DEFAULT_IMAGE_NAME=" + image,
		"BANGER_DEFAULT_DISK=512M",
		"BANGER_TAP_POOL_SIZE=0",
		"BANGER_WEB_LISTEN_ADDR=off",
		"BANGER_BRIDGE_NAME=" + bridge,
	}, s.more...)
}

func (s *station) stateDir() string        { return filepath.Join(s.dir, "state/banger/vms") }
func (s *station) runDir(id string) string { return filepath.Join(s.runtime, "banger/vm", id) }

// daemon is one process of bangerd.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launch starts a bangerd and gives what it said of its start.
func (s *station) launch() (*daemon, string) {
	s.Helper()
	ready, tell, err := os.Pipe()
	s.check(err)
	defer ready.Close()
	told, log, err := os.Pipe()
	s.check(err)
	go s.log.keep(told)
	d := &daemon{cmd: exec.Command(filepath.Join(programs, "bin/bangerd")), done: make(chan struct{})}
	d.cmd.Dir = "/"
	d.cmd.Env = append(s.env(), client.ReadyEnv+"=3", "BANGERD_HALT="+s.halts, "BANGERD_CLOCK="+s.clock)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.ExtraFiles = []*os.File{tell}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = d.cmd.Start()
	tell.Close()
	log.Close()
	s.check(err)
	go func() {
		_ = d.cmd.Wait()
		close(d.done)
	}()
	s.check(ready.SetReadDeadline(time.Now().Add(patience)))
	said, err := io.ReadAll(ready)
	s.check(err)
	return d, string(said)
}

// start brings the station's daemon up.
func (s *station) start() {
	s.Helper()
	d, said := s.launch()
	s.daemon = d
	if said != "ready\n" {
		s.Fatalf("bangerd did not start: %s\n%s", said, s.log.text())
	}
}

// await waits for the daemon's end.
func (s *station) await() {
	s.Helper()
	select {
	case <-s.daemon.done:
		s.client.Close()
		s.daemon = nil
	case <-time.After(patience):
		s.Fatal("bangerd did not end")
	}
}

func (s *station) kill() {
	s.Helper()
	s.check(s.daemon.cmd.Process.Kill())
	s.await()
}

func (s *station) stop() {
	s.Helper()
	s.check(s.client.Shutdown(s.ctx()))
	s.await()
}

func (s *station) ctx() context.Context {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	s.Cleanup(cancel)
	return ctx
}

// run makes a VM and starts it.
func (s *station) run(name string) api.VM {
	s.Helper()
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: name}, nil)
	s.check(err)
	return created.VM
}

func (s *station) vm(name string) api.VM {
	s.Helper()
	v, err := s.client.VM(s.ctx(), name)
	s.check(err)
	return v
}

// exec runs one of the guest's words.
func (s *station) exec(name string, argv ...string) string {
	s.Helper()
	command, err := s.client.Exec(s.ctx(), name, api.ExecRequest{Argv: argv, Wait: api.WaitAgent})
	s.check(err)
	var out bytes.Buffer
	status, err := command.Run(s.ctx(), nil, &out, io.Discard)
	s.check(err)
	if status != 0 {
		s.Fatalf("%q ended with %d", argv, status)
	}
	return out.String()
}

// end runs a word that ends the guest, whose answer may be lost over it.
func (s *station) end(name, word string) {
	s.Helper()
	if command, err := s.client.Exec(s.ctx(), name, api.ExecRequest{Argv: []string{word}, Wait: api.WaitAgent}); err == nil {
		_, _ = command.Run(s.ctx(), nil, io.Discard, io.Discard)
	}
}

// tellGuest runs a word that ends the guest without a daemon.
func (s *station) tellGuest(id, word string) {
	s.Helper()
	agent := host.New(func(ctx context.Context, port uint32) (conn net.Conn, err error) {
		return firecracker.DialVsock(ctx, filepath.Join(s.runDir(id), firecracker.VsockSocket), port)
	})
	if conn, err := agent.Exec(s.ctx(), proto.Exec{Argv: []string{word}}); err == nil {
		defer conn.Close()
		_, _ = proto.NewCommand(conn).Run(nil, io.Discard, io.Discard)
	}
}

// awaitState follows a VM's log until the VM is as wanted.
func (s *station) awaitState(name string, wanted func(api.VM) bool) api.VM {
	s.Helper()
	found := errors.New("found")
	var v api.VM
	err := s.client.Logs(s.ctx(), name, true, func(api.LogLine) error {
		v = s.vm(name)
		if wanted(v) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		s.Fatalf("VM %s did not come to what it should: %v; it is %s: %s\n%s", name, err, v.State, v.Reason, s.log.text())
	}
	return v
}

// awaitLog follows a VM's log until a line is the one that is waited for.
func (s *station) awaitLog(name string, wanted func(api.LogLine) bool) {
	s.Helper()
	found := errors.New("found")
	err := s.client.Logs(s.ctx(), name, true, func(line api.LogLine) error {
		if wanted(line) {
			return found
		}
		return nil
	})
	if !errors.Is(err, found) {
		s.Fatalf("the log of VM %s ended before the line was there: %v\n%s", name, err, s.log.text())
	}
}

func is(state api.State) func(api.VM) bool {
	return func(v api.VM) bool { return v.State == state }
}

// host is where the station's VMs are.
func (s *station) host() agree.Host {
	return agree.Host{VMs: s.stateDir(), Runtime: filepath.Join(s.runtime, "banger/vm"), Bridge: bridge, Patience: patience}
}

// agrees holds what bangerd says against what is on the host.
func (s *station) agrees() []api.VM {
	s.Helper()
	list, err := s.host().Check(func() ([]api.VM, error) { return s.client.VMs(s.ctx()) })
	var pids []string
	for _, v := range list {
		if v.VMM != nil {
			pids = append(pids, fmt.Sprint(v.VMM.PID))
		}
	}
	if err := errors.Join(err, agree.Same("VMMs", agree.PIDsIn(s.host().Runtime), pids)); err != nil {
		s.Fatalf("%v\nwhat bangerd said:\n%s", err, s.log.text())
	}
	return list
}

// rules is what nft lists, without whose connections are counted, which changes
// with what the guests do.
func (s *station) rules() string {
	s.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		s.Fatalf("nft: %v\n%s", err, out)
	}
	return counted.ReplaceAllString(string(out), "$1")
}

var counted = regexp.MustCompile(`(set connections \{[^}]*)\n\t\telements = \{[^}]*\}`)

// empty deletes every VM, stops the daemon and looks whether anything is left.
func (s *station) empty() {
	s.Helper()
	s.deleteAll()
	s.stop()
	s.nothing()
}

func (s *station) deleteAll() {
	s.Helper()
	vms, err := s.client.VMs(s.ctx())
	s.check(err)
	for _, v := range vms {
		s.check(s.client.DeleteVM(s.ctx(), v.ID, nil))
	}
	s.agrees()
}

// nothing is what a stopped banger without VMs leaves.
func (s *station) nothing() {
	s.Helper()
	host := s.host()
	taps, err := host.Taps()
	err = errors.Join(err,
		agree.Same("directories of VMs", agree.Names(host.VMs), nil),
		agree.Same("runtime directories", agree.Names(host.Runtime), nil),
		agree.Same("VMMs", agree.PIDsIn(host.Runtime), nil),
		agree.Same("taps", taps, nil))
	if err != nil {
		s.Error(err)
	}
	if rules := s.rules(); rules != "" {
		s.Errorf("rules are left:\n%s", rules)
	}
	if _, err := netlink.LinkByName(bridge); err == nil {
		s.Error("the bridge is left")
	}
	for _, pid := range s.processes("") {
		if err := testenv.AwaitEnd(pid, patience); err != nil {
			s.Error(err)
		}
	}
}

// processes gives those that run the test's programs whose paths begin so.
func (s *station) processes(path string) []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, filepath.Join(programs, path)) {
			var pid int
			fmt.Sscan(filepath.Base(filepath.Dir(link)), &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

// tidy ends what a failed test left.
func (s *station) tidy() {
	for _, pid := range s.processes("") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_ = testenv.AwaitEnd(pid, patience)
	}
	s.dropNetwork()
	os.RemoveAll(s.runtime)
	if s.Failed() {
		s.Log(s.log.text())
	}
}

func (s *station) endProcess(pid int) {
	s.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		s.Fatal(err)
	}
	s.check(testenv.AwaitEnd(pid, patience))
}

// dropNetwork takes all links and rules away, as a restart of the host does.
func (s *station) dropNetwork() {
	links, _ := netlink.LinkList()
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, bridge) {
			_ = netlink.LinkDel(l)
		}
	}
	_ = exec.Command("nft", "flush", "ruleset").Run()
}
