// Command inits makes root filesystems whose init is not systemd, for the
// tests: busybox, OpenRC under sysvinit, and one without any, which has the
// tools of somebody who tries what a network lets through. They come from
// Debian's packages and are kept; what is there already is not made again.
//
//	go run ./test/e2e/inits DIR    makes DIR/busybox.ext4, DIR/openrc.ext4 and DIR/hostile.ext4
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
	for name, fill := range map[string]func(context.Context, *debian.Archive, string) error{"busybox": busybox, "openrc": openrc, "hostile": hostile} {
		if err := make1(ctx, dir, name, fill); err != nil {
			return fmt.Errorf("cannot make the %s image: %w", name, err)
		}
	}
	return nil
}

func make1(ctx context.Context, dir, name string, fill func(context.Context, *debian.Archive, string) error) error {
	path := filepath.Join(dir, name+".ext4")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	archive, err := debian.Open(ctx, debian.Options{Cache: filepath.Join(dir, "debian")}, progress.Discard, "bookworm")
	if err != nil {
		return err
	}
	tree, err := os.MkdirTemp(dir, name)
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := errors.Join(os.Chmod(tree, 0o755), fill(ctx, archive, tree)); err != nil {
		return err
	}
	size, err := ext4.SizeFor(tree)
	if err != nil {
		return err
	}
	part := path + ".part"
	if err := errors.Join(os.RemoveAll(part), ext4.Mke2fs{}.Build(ctx, tree, part, ext4.Options{Size: size})); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// busybox is one static program that is its own init and shell.
func busybox(ctx context.Context, a *debian.Archive, tree string) error {
	debs, err := a.Fetch(ctx, progress.Discard, "busybox-static")
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if err := debian.Unpack(ctx, deb, tree); err != nil {
			return err
		}
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

func openrc(ctx context.Context, a *debian.Archive, tree string) error {
	return debian.Bootstrap(ctx, a, debian.Spec{Dir: tree, Packages: []string{"openrc", "sysvinit-core"}}, progress.Discard)
}

func hostile(ctx context.Context, a *debian.Archive, tree string) error {
	tools := []string{"nmap", "iputils-arping", "iputils-ping", "iproute2", "python3-minimal"}
	return debian.Bootstrap(ctx, a, debian.Spec{Dir: tree, Packages: tools}, progress.Discard)
}
