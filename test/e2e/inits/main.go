// Command inits makes root filesystems with each kind of init, for the tests:
// busybox, OpenRC under sysvinit, systemd, and one without any, which has the
// tools of somebody who tries what a network lets through. They come from
// Debian's packages and are kept; what is there already is not made again.
//
// Beside them is DIR/apt, a repository with openssh-server and all it needs, and
// what is in a container image of Debian without an init.
//
//	go run ./test/e2e/inits DIR    makes DIR/{busybox,openrc,systemd,hostile,streamed}.ext4, DIR/apt and DIR/slim.tar
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/progress"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: inits DIR")
		os.Exit(2)
	}
	if err := run(ctx, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "inits:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	recipes := map[string]recipe{"busybox": {busybox, mke2fs}, "openrc": {openrc, mke2fs}, "systemd": {systemd, mke2fs}, "hostile": {hostile, mke2fs}, "streamed": {noInit, stream}}
	for name, how := range recipes {
		if err := make1(ctx, dir, name, how); err != nil {
			return fmt.Errorf("cannot make the %s image: %w", name, err)
		}
	}
	if err := repository(ctx, dir, "openssh-server"); err != nil {
		return fmt.Errorf("cannot make the repository: %w", err)
	}
	if err := slim(ctx, dir); err != nil {
		return fmt.Errorf("cannot make the slim image: %w", err)
	}
	return nil
}

// recipe is how an image is made: what fills its tree, and what makes a
// filesystem file of the tree.
type recipe struct {
	fill func(ctx context.Context, a *debian.Archive, tree string) error
	make func(ctx context.Context, tree, path string) error
}

func make1(ctx context.Context, dir, name string, how recipe) error {
	path := filepath.Join(dir, name+".ext4")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	archive, err := open(ctx, dir)
	if err != nil {
		return err
	}
	tree, err := os.MkdirTemp(dir, name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := errors.Join(os.Chmod(tree, 0o755), how.fill(ctx, archive, tree)); err != nil {
		return err
	}
	part := path + ".part"
	if err := errors.Join(os.RemoveAll(part), how.make(ctx, tree, part)); err != nil {
		return err
	}
	return os.Rename(part, path)
}

func open(ctx context.Context, dir string) (*debian.Archive, error) {
	return debian.Open(ctx, debian.Options{Cache: filepath.Join(dir, "debian")}, progress.Discard, "bookworm")
}

func mke2fs(ctx context.Context, tree, path string) error {
	size, err := ext4.SizeFor(tree)
	if err != nil {
		return err
	}
	return ext4.Mke2fs{}.Build(ctx, tree, path, ext4.Options{Size: size})
}

// busybox is one static program that is its own init and shell.
func busybox(ctx context.Context, a *debian.Archive, tree string) error {
	if err := unpack(ctx, a, tree, "busybox-static"); err != nil {
		return err
	}
	for _, dir := range []string{"sbin", "dev", "proc", "sys", "run", "tmp", "root", "etc"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			return err
		}
	}
	for _, link := range []string{"sbin/init", "sbin/poweroff", "sbin/reboot", "bin/sh", "bin/sync", "bin/sleep", "bin/echo"} {
		if err := os.Symlink("/bin/busybox", filepath.Join(tree, link)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return os.WriteFile(filepath.Join(tree, "etc", "inittab"), []byte("::sysinit:/bin/busybox true\n::ctrlaltdel:/sbin/reboot\n"), 0o644)
}

func unpack(ctx context.Context, a *debian.Archive, tree string, packages ...string) error {
	debs, err := a.Fetch(ctx, progress.Discard, packages...)
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := debian.Unpack(ctx, deb, tree); err != nil {
			return err
		}
	}
	return nil
}

// serverNeeds is what openssh-server depends on: to install all that as well would
// take a guest long, and show nothing more.
var serverNeeds = []string{"openssh-client", "openssh-sftp-server", "procps", "ucf", "runit-helper", "libwrap0"}

func openrc(ctx context.Context, a *debian.Archive, tree string) error {
	packages := append([]string{"openrc", "sysvinit-core"}, serverNeeds...)
	return debian.Bootstrap(ctx, a, debian.Spec{Dir: tree, Packages: packages}, progress.Discard)
}

func systemd(ctx context.Context, a *debian.Archive, tree string) error {
	packages := append([]string{"systemd-sysv", "dbus"}, serverNeeds...)
	return debian.Bootstrap(ctx, a, debian.Spec{Dir: tree, Packages: packages}, progress.Discard)
}

func hostile(ctx context.Context, a *debian.Archive, tree string) error {
	tools := []string{"nmap", "iputils-arping", "iputils-ping", "iproute2", "python3-minimal"}
	return debian.Bootstrap(ctx, a, debian.Spec{Dir: tree, Packages: tools}, progress.Discard)
}
