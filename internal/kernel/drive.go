package kernel

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// buildDrive makes the modules drive: an ext4 file at path that holds tree. It
// is only ever mounted read-only, so it has no journal and no spare inodes.
func buildDrive(ctx context.Context, tree, path string) error {
	size, err := driveSize(tree)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4",
		"-b", "4096", "-I", "256", "-m", "0",
		"-O", "^has_journal,^resize_inode,^metadata_csum,64bit,extent",
		"-N", strconv.FormatInt(size.files, 10),
		"-E", "lazy_itable_init=0,root_owner=0:0", "-L", "modules",
		"-d", tree, path, strconv.FormatInt(size.blocks, 10))
	cmd.Env = append(os.Environ(), "MKE2FS_CONFIG=/dev/null", "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot make the modules drive: mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return syncFile(path)
}

type treeSize struct{ files, blocks int64 }

// driveSize counts what a tree needs: its inodes, and blocks of 4 KiB for its
// content, its inodes and the filesystem itself.
func driveSize(tree string) (treeSize, error) {
	var size treeSize
	err := filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		size.files++
		size.blocks += (info.Size()+4095)/4096 + 1
		return nil
	})
	if err != nil {
		return treeSize{}, fmt.Errorf("cannot measure the kernel's modules: %w", err)
	}
	size.files += 64
	size.blocks += size.files/16 + size.blocks/64 + 2048
	return size, nil
}

// syncFile makes a file's content durable.
func syncFile(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
