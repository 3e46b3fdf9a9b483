package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/atomicfile"
)

// Copy makes a disk of spec that is a copy of the image's filesystem in the
// file from, durably: for VMs whose kernel has no device-mapper. Where the
// host's filesystem can share what two files have in common it does, and shared
// says so; else what is not holes is copied. A disk smaller than its image is
// refused with an *api.Error.
func Copy(ctx context.Context, spec Spec, from string) (shared bool, err error) {
	if spec.Virtual < spec.Base {
		return false, tooSmall(spec)
	}
	source, err := os.Open(from)
	if err != nil {
		return false, fmt.Errorf("cannot copy the image: %w", err)
	}
	defer source.Close()
	file, err := os.OpenFile(spec.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return false, fmt.Errorf("cannot create the VM's disk: %w", err)
	}
	shared, err = fill(ctx, file, source, spec)
	if err := errors.Join(err, file.Close()); err != nil {
		return false, errors.Join(explain(spec.Path, err), os.Remove(spec.Path))
	}
	return shared, atomicfile.SyncDir(filepath.Dir(spec.Path))
}

func fill(ctx context.Context, file, source *os.File, spec Spec) (shared bool, err error) {
	if err := file.Chown(spec.UID, -1); err != nil {
		return false, fmt.Errorf("cannot give the VM's disk to its user: %w", err)
	}
	shared = unix.IoctlFileClone(int(file.Fd()), int(source.Fd())) == nil
	if !shared {
		if err := copySparse(ctx, file, source); err != nil {
			return false, fmt.Errorf("cannot copy the image: %w", err)
		}
	}
	if err := file.Truncate(roundUp(spec.Virtual)); err != nil {
		return false, fmt.Errorf("cannot size the VM's disk: %w", err)
	}
	if err := file.Sync(); err != nil {
		return false, fmt.Errorf("cannot write the VM's disk: %w", err)
	}
	return shared, nil
}

// copyPart is how much is copied between two looks at the context.
const copyPart = 64 << 20

// copySparse copies what of a file is not holes.
func copySparse(ctx context.Context, to, from *os.File) error {
	info, err := from.Stat()
	if err != nil {
		return err
	}
	if err := CheckSpace(filepath.Dir(to.Name()), info.Sys().(*syscall.Stat_t).Blocks*512, "a copy of the image"); err != nil {
		return err
	}
	for at := int64(0); ; {
		begin, err := unix.Seek(int(from.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil
		}
		if err != nil {
			return err
		}
		end, err := unix.Seek(int(from.Fd()), begin, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		for at = begin; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := min(copyPart, end-at)
			if err := copyRange(to, from, at, n); err != nil {
				return err
			}
			at += n
		}
	}
}

func copyRange(to, from *os.File, at, n int64) error {
	if _, err := from.Seek(at, io.SeekStart); err != nil {
		return err
	}
	if _, err := to.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err := io.CopyN(to, from, n) // copy_file_range where that works
	return err
}
