package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/serialmux"
)

// starts is how many cold starts a median is of.
const starts = 7

// coldStart compares a whole `vm run` with the least that could be: the same
// QEMU with the same kernel, initramfs and disk, until the agent says hello; and
// with what Debian itself does until ssh answers.
func coldStart(ctx context.Context, h *host) ([]row, error) {
	run := func() error { return h.run("vm", "run", "--wait", "agent", "--rm", "--", "true") }
	if err := run(); err != nil { // the daemon is up, the files are in the page cache
		return nil, err
	}
	command, err := h.qemuCommand()
	if err != nil {
		return nil, err
	}
	// In turn, so that whatever else the machine does hits both.
	var here, floor []time.Duration
	for range starts {
		took, err := median(ctx, 1, run)
		if err != nil {
			return nil, err
		}
		here = append(here, took)
		if took, err = median(ctx, 1, func() error { return h.floor(ctx, command) }); err != nil {
			return nil, err
		}
		floor = append(floor, took)
	}
	rows := []row{compare("vm run --wait agent --rm -- true", middle(here), "QEMU by hand, to the agent's hello", middle(floor), 1.25)}
	byDefault, err := median(ctx, 3, func() error { return h.run("vm", "run", "--rm", "--", "true") })
	if err != nil {
		return rows, err
	}
	rows = append(rows, row{name: "vm run --rm -- true (default wait)", value: short(byDefault)})
	stock, err := stockBoot(ctx, h)
	if err != nil {
		return rows, err
	}
	return append(rows, compare("vm run --wait agent --rm -- true", middle(here), "stock Debian boot to ssh", stock, 0.5)), nil
}

// fortyBoots shows that guests come up each time.
func fortyBoots(ctx context.Context, h *host) ([]row, error) {
	const boots = 40
	up := 0
	var last error
	for range boots {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := h.run("vm", "run", "--wait", "agent", "--rm", "--", "true"); err != nil {
			last = err
			continue
		}
		up++
	}
	r := row{name: "boots in a row that came up", value: fmt.Sprintf("%d of %d", up, boots)}
	if up != boots {
		return []row{r}, fmt.Errorf("a boot failed: %w", last)
	}
	return []row{r}, nil
}

// qemuCommand is the command line that fcqemu gives its QEMU, taken from one
// that runs.
func (h *host) qemuCommand() ([]string, error) {
	if err := h.run("vm", "create", "--name", "model", "--wait", "agent"); err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "model")
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range cmdlines {
		data, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(data), "qemu-system") {
			continue
		}
		cwd, err := os.Readlink(filepath.Join(filepath.Dir(path), "cwd"))
		if err == nil && strings.HasPrefix(cwd, h.dir) {
			return strings.Split(strings.TrimRight(string(data), "\x00"), "\x00"), nil
		}
	}
	return nil, errors.New("no QEMU runs: this compares with QEMU only")
}

// floor boots by hand: files by name where fcqemu hands descriptors down, no
// network, no monitor.
func (h *host) floor(ctx context.Context, command []string) error {
	dir, err := os.MkdirTemp(h.dir, "floor")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	image := filepath.Join(h.store, "images", "debian-bookworm", "rootfs.ext4")
	info, err := os.Stat(image)
	if err != nil {
		return err
	}
	cow := filepath.Join(dir, "cow")
	if err := disk.Create(disk.Spec{Path: cow, Virtual: 20 << 30, Base: info.Size(), UID: os.Getuid()}); err != nil {
		return err
	}
	kernel := filepath.Join(h.store, "kernels", "generic-6.12")
	socket := filepath.Join(dir, "port")
	args := byHand(command, map[string]string{
		"-kernel": filepath.Join(kernel, "vmlinux"),
		"-initrd": filepath.Join(kernel, "initramfs"),
	}, []string{image, cow, filepath.Join(kernel, "modules.ext4")}, socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer l.Close()
	qemu := exec.CommandContext(ctx, command[0], args...)
	var said strings.Builder
	qemu.Stderr = &said
	if err := qemu.Start(); err != nil {
		return err
	}
	defer func() { _ = qemu.Process.Kill(); _ = qemu.Wait() }()
	stop := time.AfterFunc(2*time.Minute, func() { l.Close() })
	defer stop.Stop()
	conn, err := l.Accept()
	if err != nil {
		return fmt.Errorf("QEMU by hand did not come up: %w\n%s", err, said.String())
	}
	return awaitHello(conn)
}

func awaitHello(conn io.ReadWriteCloser) error {
	defer conn.Close()
	mux := serialmux.Host(conn)
	defer mux.Close()
	stream, port, err := mux.Accept()
	if err != nil {
		return err
	}
	defer stream.Close()
	if port != proto.HelloPort {
		return fmt.Errorf("the guest dialled port %d first", port)
	}
	_, err = stream.Read(make([]byte, 1))
	return err
}

// byHand turns fcqemu's command line, in which files are inherited descriptors,
// into one that a person could type.
func byHand(command []string, files map[string]string, drives []string, socket string) []string {
	var args []string
	for i := 1; i < len(command); i++ {
		word, next := command[i], ""
		if i+1 < len(command) {
			next = command[i+1]
		}
		switch {
		case files[word] != "":
			args = append(args, word, files[word])
			i++
		case word == "-add-fd", word == "-mon", word == "-netdev",
			word == "-device" && strings.HasPrefix(next, "virtio-net"),
			word == "-chardev" && strings.HasPrefix(next, "socket,id=control"):
			i++
		case word == "-chardev" && strings.HasPrefix(next, "socket,id=vsock"):
			args = append(args, word, "socket,id=vsock,path="+socket)
			i++
		case word == "-chardev" && strings.HasPrefix(next, "stdio"):
			args = append(args, word, "null,id=serial")
			i++
		default:
			args = append(args, named(word, drives))
		}
	}
	return args
}

// named replaces the descriptor set of a drive by the drive's file.
func named(word string, drives []string) string {
	for i, path := range drives {
		word = strings.ReplaceAll(word, "/dev/fdset/"+strconv.Itoa(i), path)
	}
	return word
}
