package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/ext4"
)

// noInit is busybox as a shell without an init, and e2fsck.
func noInit(ctx context.Context, a *debian.Archive, tree string) error {
	if err := unpack(ctx, a, tree, "busybox-static", "e2fsck-static"); err != nil {
		return err
	}
	return os.Symlink("busybox", filepath.Join(tree, "bin", "sh"))
}

// hugeDirectory is how many files are in one directory of the streamed image.
const hugeDirectory = 100_000

// stream writes a tree with ext4's own writer, and a huge directory beside it.
func stream(_ context.Context, tree, path string) error {
	w, err := ext4.Create(path, ext4.WriterOptions{Label: "streamed"})
	if err != nil {
		return err
	}
	defer w.Abort()
	if err := addTree(w, tree); err != nil {
		return err
	}
	for i := range hugeDirectory {
		if err := w.File(fmt.Sprintf("huge/file-%d", i), ext4.Attr{Mode: 0o644}, strings.NewReader("x"), 1); err != nil {
			return err
		}
	}
	return w.Close()
}

// addTree adds the directories, files and symlinks of a tree, as root's.
func addTree(w *ext4.Writer, tree string) error {
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		a := ext4.Attr{Mode: info.Sys().(*syscall.Stat_t).Mode, Mtime: info.ModTime()}
		switch info.Mode().Type() {
		case fs.ModeDir:
			return w.Mkdir(name, a)
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return w.Symlink(name, target, a)
		default:
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			return w.File(name, a, file, info.Size())
		}
	})
}
