// Command measure takes the times of the nested benchmark, in the machine that
// firecracker runs in: how long a machine takes from nothing to its first
// command, and a command in a running machine, by banger, by microsandbox, and
// by firecracker alone. It prints one JSON object with seconds by name.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// setup is what is measured.
type setup struct {
	runs        int
	firecracker string
	kernel      string // directory of the kernel in the store
	initramfs   string
	rootfs      string
	args        string // the guest kernel's command line
	disk        int64  // bytes of the guest's disk
	memoryMiB   int
	image       string // microsandbox's name of the image
	msb         string
	tap         string
}

func main() {
	var s setup
	flag.IntVar(&s.runs, "runs", 7, "how often a cold start is measured; commands thrice as often")
	flag.StringVar(&s.firecracker, "firecracker", "", "the firecracker binary")
	flag.StringVar(&s.kernel, "kernel", "", "directory of the kernel")
	flag.StringVar(&s.initramfs, "initramfs", "", "its initramfs")
	flag.StringVar(&s.rootfs, "rootfs", "", "the image's filesystem")
	flag.StringVar(&s.args, "args", "", "the kernel's command line")
	flag.Int64Var(&s.disk, "disk", 0, "bytes of the guest's disk")
	flag.IntVar(&s.memoryMiB, "memory", 1024, "MiB of the guest's memory")
	flag.StringVar(&s.image, "image", "", "microsandbox's name of the image")
	flag.StringVar(&s.msb, "msb", "msb", "microsandbox's program")
	flag.StringVar(&s.tap, "tap", "bare0", "a tap for the guest of firecracker alone")
	flag.Parse()
	times, err := s.measure(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(times)
}

// measure takes turns, so that all see the same weather.
func (s setup) measure(ctx context.Context) (map[string][]float64, error) {
	times := map[string][]float64{}
	err := s.rounds(ctx, times, s.runs,
		subject{"cold firecracker", s.bare},
		subject{"cold banger", timed("banger", "vm", "run", "--wait", "agent", "--rm", "--", "true")},
		subject{"cold msb", timed(s.msb, "run", "--quiet", "--cpus", "1", "--memory", fmt.Sprintf("%dM", s.memoryMiB), s.image, "--", "true")},
	)
	if err != nil {
		return nil, err
	}
	return times, s.execs(ctx, times)
}

// subject is something that takes time.
type subject struct {
	name string
	do   func(context.Context) (time.Duration, error)
}

func (s setup) rounds(ctx context.Context, times map[string][]float64, runs int, subjects ...subject) error {
	for range runs {
		for _, u := range subjects {
			took, err := u.do(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", u.name, err)
			}
			fmt.Fprintf(os.Stderr, "%s: %.2f s\n", u.name, took.Seconds())
			times[u.name] = append(times[u.name], took.Seconds())
		}
	}
	return nil
}

// execs measures a command in a running machine, one machine after the other:
// in one whose boot is over, that is, and udev's work goes on for seconds after
// systemd says that the system is up. (Microsandbox's guest boots no system.)
func (s setup) execs(ctx context.Context, times map[string][]float64) error {
	type machine struct {
		name                     string
		start, settle, run, stop []string
	}
	for _, m := range []machine{
		{"exec banger",
			[]string{"banger", "vm", "create", "--name", "bench", "--wait", "system"},
			[]string{"banger", "vm", "exec", "bench", "--", "udevadm", "settle"},
			[]string{"banger", "vm", "exec", "bench", "--", "true"},
			[]string{"banger", "vm", "delete", "bench"}},
		{"exec msb",
			[]string{s.msb, "create", "--quiet", "--name", "bench", "--cpus", "1", "--memory", fmt.Sprintf("%dM", s.memoryMiB), s.image},
			[]string{s.msb, "exec", "--quiet", "bench", "--", "true"},
			[]string{s.msb, "exec", "--quiet", "bench", "--", "true"},
			[]string{s.msb, "remove", "--force", "bench"}},
	} {
		for _, command := range [][]string{m.start, m.settle} {
			if _, err := timed(command...)(ctx); err != nil {
				return err
			}
		}
		err := s.rounds(ctx, times, 3*s.runs, subject{m.name, timed(m.run...)})
		if err != nil {
			return err
		}
		if _, err := timed(m.stop...)(ctx); err != nil {
			return err
		}
	}
	return nil
}

// timed measures a program from its start to its end.
func timed(argv ...string) func(context.Context) (time.Duration, error) {
	return func(ctx context.Context) (time.Duration, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		start := time.Now()
		out, err := cmd.CombinedOutput()
		took := time.Since(start)
		if err != nil {
			return 0, fmt.Errorf("%v: %w\n%s", argv, err, out)
		}
		return took, nil
	}
}

// bare measures firecracker as a person would drive it with curl, from its
// start until the guest's agent says hello. The guest is banger's: the same
// kernel, initramfs, drives and devices.
func (s setup) bare(ctx context.Context) (time.Duration, error) {
	dir, err := os.MkdirTemp("", "bare")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	base, err := os.Stat(s.rootfs)
	if err != nil {
		return 0, err
	}
	if err := disk.Create(disk.Spec{Path: filepath.Join(dir, "cow"), Virtual: s.disk, Base: base.Size()}); err != nil {
		return 0, err
	}
	hello, err := net.Listen("unix", filepath.Join(dir, fmt.Sprintf("v.sock_%d", proto.HelloPort)))
	if err != nil {
		return 0, err
	}
	defer hello.Close()
	if err := os.WriteFile(filepath.Join(dir, "log"), nil, 0o600); err != nil { // before 1.14 it must be there
		return 0, err
	}
	start := time.Now()
	cmd := exec.CommandContext(ctx, s.firecracker, "--api-sock", "api.sock", "--id", "bare", "--log-path", "log")
	cmd.Dir = dir
	if err := cmd.Start(); err != nil { // its output goes to /dev/null
		return 0, err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	if err := s.configure(ctx, dir); err != nil {
		return 0, err
	}
	conn, err := hello.Accept()
	if err != nil {
		return 0, err
	}
	events, err := host.Accept(ctx, conn)
	if err != nil {
		return 0, err
	}
	took := time.Since(start)
	return took, events.Close()
}

// configure sends one request by each call of curl.
func (s setup) configure(ctx context.Context, dir string) error {
	yes, no := true, false
	requests := []struct {
		path string
		body any
	}{
		{"machine-config", firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: s.memoryMiB}},
		{"boot-source", firecracker.BootSource{KernelImagePath: filepath.Join(s.kernel, "vmlinux"), InitrdPath: s.initramfs, BootArgs: &s.args}},
		{"drives/base", firecracker.Drive{DriveID: "base", PathOnHost: s.rootfs, IsReadOnly: &yes}},
		{"drives/cow", firecracker.Drive{DriveID: "cow", PathOnHost: "cow", IsReadOnly: &no, CacheType: firecracker.CacheWriteback}},
		{"drives/modules", firecracker.Drive{DriveID: "modules", PathOnHost: filepath.Join(s.kernel, "modules.ext4"), IsReadOnly: &yes}},
		{"network-interfaces/eth0", firecracker.NetworkInterface{IfaceID: "eth0", HostDevName: s.tap, GuestMAC: "06:00:00:00:00:01"}},
		{"vsock", firecracker.Vsock{GuestCID: 3, UDSPath: "v.sock"}},
		{"entropy", firecracker.Entropy{}},
		{"actions", firecracker.Action{ActionType: firecracker.ActionInstanceStart}},
	}
	if err := awaitSocket(filepath.Join(dir, "api.sock")); err != nil {
		return err
	}
	for _, r := range requests {
		body, err := json.Marshal(r.body)
		if err != nil {
			return err
		}
		curl := exec.CommandContext(ctx, "curl", "-sS", "--fail-with-body", "--unix-socket", "api.sock", "-X", "PUT", "http://localhost/"+r.path, "-d", string(body))
		curl.Dir = dir
		if out, err := curl.CombinedOutput(); err != nil {
			return fmt.Errorf("curl %s: %w: %s", r.path, err, out)
		}
	}
	return nil
}

// awaitSocket returns when someone listens there.
func awaitSocket(path string) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			return err
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
}
