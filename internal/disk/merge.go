package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/disk/dmsnapshot"
)

// Merge makes a file at path, which must not exist, that holds what the guest
// saw on a VM's disk: the image's filesystem in the file base with the
// copy-on-write file at spec.Path over it. The VM must not run.
func Merge(ctx context.Context, spec Spec, base, path string) error {
	cow, err := os.Open(spec.Path)
	if err != nil {
		return fmt.Errorf("cannot read the VM's disk: %w", err)
	}
	defer cow.Close()
	copied := Spec{Path: path, Virtual: spec.Virtual, Base: spec.Base, UID: os.Getuid()}
	if _, err := Copy(ctx, copied, base); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot write the merged disk: %w", err)
	}
	defer file.Close()
	if err := lay(ctx, cow, file, copied.Virtual); err != nil {
		return explain(path, fmt.Errorf("cannot merge the VM's disk: %w", err))
	}
	return nil
}

// lay writes the chunks of a copy-on-write file to where they belong.
func lay(ctx context.Context, cow, file *os.File, virtual int64) error {
	info, err := cow.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, dmsnapshot.HeaderSize)
	if _, err := cow.ReadAt(header, 0); err != nil {
		return err
	}
	parsed, err := dmsnapshot.ParseHeader(header)
	if errors.Is(err, dmsnapshot.ErrNew) {
		return nil
	}
	if err != nil {
		return err
	}
	buf := make([]byte, parsed.ChunkSectors*dmsnapshot.SectorSize)
	zeros := make([]byte, len(buf))
	_, err = dmsnapshot.Exceptions(cow, info.Size(), func(onDisk, inDevice int64) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if onDisk >= virtual {
			return errors.New("a chunk lies behind the disk's end")
		}
		part := buf[:min(int64(len(buf)), virtual-onDisk)]
		if _, err := cow.ReadAt(part, inDevice); err != nil {
			return err
		}
		if bytes.Equal(part, zeros[:len(part)]) {
			return unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, onDisk, int64(len(part)))
		}
		_, err := file.WriteAt(part, onDisk)
		return err
	})
	return err
}
