package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/fcqemu/tsc"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// What follows fetches packages, so it runs in the host's own network.

// imageBuild compares a build of the default image, from nothing, with
// mmdebstrap and mkfs.ext4 of the same packages.
func imageBuild(ctx context.Context) ([]row, error) {
	dir, err := os.MkdirTemp("/var/tmp", "banger-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	const name = "debian-bookworm"
	all := catalog.All()
	i := slices.IndexFunc(all, func(e catalog.Entry) bool { return e.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("the catalog has no %s", name)
	}
	store := &image.Store{Dir: filepath.Join(dir, "images"), Cache: filepath.Join(dir, "cache"), Debian: debian.Options{}}
	here, err := median(ctx, 1, func() error {
		if err := os.MkdirAll(store.Dir, 0o755); err != nil {
			return err
		}
		_, err := store.Ensure(ctx, name, progress.Discard)
		return err
	})
	if err != nil {
		return nil, err
	}
	there, err := median(ctx, 1, func() error { return bootstrap(ctx, dir, "peer", all[i].Packages) })
	if err != nil {
		return nil, err
	}
	return []row{compare("default image from nothing", here, "mmdebstrap and mkfs.ext4", there, 2)}, nil
}

// bootstrap makes dir/name.ext4 by the tools that a person would use, and keeps
// the tree beside it.
func bootstrap(ctx context.Context, dir, name string, packages []string, hooks ...string) error {
	tree := filepath.Join(dir, name)
	args := []string{"--mode=root", "--variant=essential", "--include=" + strings.Join(packages, ",")}
	for _, hook := range hooks {
		args = append(args, "--customize-hook="+hook)
	}
	sources, err := aptSources()
	if err != nil {
		return err
	}
	if err := quote(exec.CommandContext(ctx, "mmdebstrap", append(args, "bookworm", tree, sources)...)); err != nil {
		return err
	}
	return quote(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", tree, filepath.Join(dir, name+".ext4"), "3G"))
}

// aptSources is the host's own list of mirrors.
func aptSources() (string, error) {
	for _, path := range []string{"/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"} {
		if info, err := os.Stat(path); err == nil && info.Size() > 0 {
			return path, nil
		}
	}
	return "", errors.New("the host's apt has no sources for mmdebstrap")
}

// stockDir is where the stock Debian is kept between runs.
func stockDir() (string, error) {
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, "banger", "bench"), err
}

// makeStock makes a Debian with its own kernel, initramfs and sshd.
func makeStock(ctx context.Context) error {
	dir, err := stockDir()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "initrd")); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	packages := []string{"linux-image-cloud-amd64", "initramfs-tools", "systemd-sysv", "udev", "dbus", "openssh-server"}
	err = bootstrap(ctx, dir, "stock", packages,
		`printf '[Match]\nName=e*\n[Network]\nDHCP=yes\n' > "$1/etc/systemd/network/80-dhcp.network"`,
		`chroot "$1" systemctl enable systemd-networkd`)
	if err != nil {
		return err
	}
	defer os.RemoveAll(filepath.Join(dir, "stock"))
	for from, to := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd"} {
		found, _ := filepath.Glob(filepath.Join(dir, "stock", "boot", from))
		if len(found) != 1 {
			return fmt.Errorf("the stock Debian has %d files like /boot/%s", len(found), from)
		}
		if err := os.Rename(found[0], filepath.Join(dir, to)); err != nil {
			return err
		}
	}
	return nil
}

// stockBoot times that Debian from QEMU's start until sshd says its name.
func stockBoot(ctx context.Context, h *host) (time.Duration, error) {
	dir, err := stockDir()
	if err != nil {
		return 0, err
	}
	return median(ctx, 3, func() error { return bootToSSH(ctx, dir) })
}

func bootToSSH(ctx context.Context, dir string) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	khz, err := tsc.Begin().KHz(ctx)
	if err != nil {
		return err
	}
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "microvm,acpi=on,rtc=on,auto-kernel-cmdline=off", "-accel", "tcg,thread=multi", "-cpu", "max,-erms",
		"-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-serial", "none", "-snapshot",
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initrd"),
		"-append", fmt.Sprintf("root=/dev/vda rw quiet net.ifnames=0 tsc_early_khz=%d tsc=reliable", khz),
		"-drive", "if=none,id=root,format=raw,file="+filepath.Join(dir, "stock.ext4"), "-device", "virtio-blk-device,drive=root",
		"-netdev", fmt.Sprintf("user,id=net,hostfwd=tcp:127.0.0.1:%d-:22", port), "-device", "virtio-net-device,netdev=net",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng")
	var said strings.Builder
	qemu.Stderr = &said
	if err := qemu.Start(); err != nil {
		return err
	}
	defer func() { _ = qemu.Process.Kill(); _ = qemu.Wait() }()
	for deadline := time.Now().Add(3 * time.Minute); time.Now().Before(deadline); {
		if greets(port) {
			return nil
		}
	}
	return fmt.Errorf("the stock Debian's sshd did not answer: %s", said.String())
}

// greets waits on one connection for an SSH server's first line. QEMU accepts
// at once and holds the connection until the guest does or refuses.
func greets(port int) bool {
	conn, err := net.Dial("tcp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		time.Sleep(20 * time.Millisecond)
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	return awaitLine(bufio.NewScanner(conn), "SSH-")
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
