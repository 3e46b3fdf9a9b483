// Package ext4 makes the filesystem file of an image, from a directory tree or
// out of a stream, and recognises such files.
//
// An image's filesystem is never written to: it lies, read-only, below the
// copy-on-write disks of its VMs, where it is grown online to the size of the
// disk. That decides its layout: blocks of 4 KiB, descriptors of 64 bits and
// room for them, inode tables and journal that need no zeroing at first mount.
package ext4

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// MaxDisk is the size in bytes up to which a filesystem made here has been
// grown online.
const MaxDisk = 8 << 40

// reservedDisk is the size in bytes that blocks for group descriptors are kept
// free for. Growing over it the kernel places the descriptors as meta_bg does,
// so it is no limit. More would be dear: each copy of the descriptors that
// growing adds has all of the reserved blocks too, and for 8 TiB that is 28 MiB
// to write at the first start of each VM.
const reservedDisk = 64 << 30

const (
	blockSize     = 4096
	bytesPerInode = 16384
	inodeSize     = 256
	journalMiB    = 64
	mib           = 1 << 20
)

// Options says how the filesystem is made.
type Options struct {
	Size  int64  // bytes, a multiple of 1 MiB
	Label string // at most 16 bytes; may be empty
}

// Builder makes an ext4 file at path, which must not exist, holding what is
// in tree with owners, modes, times, links, device nodes and extended
// attributes.
type Builder interface {
	Build(ctx context.Context, tree, path string, o Options) error
}

// SizeFor is the size in bytes of a filesystem that holds tree, with the
// filesystem's own needs and room to start a VM without growing it.
func SizeFor(tree string) (int64, error) {
	var content, files int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		if stat.Nlink > 1 && !info.IsDir() {
			if seen[stat.Ino] {
				return nil
			}
			seen[stat.Ino] = true
		}
		files++
		content += roundUp(info.Size(), blockSize)
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("cannot measure a tree: %w", err)
	}
	size := content + content/16 + (journalMiB+256)*mib
	size = max(size, files*5/4*bytesPerInode) // so many inodes must be
	size += size / bytesPerInode * inodeSize
	return roundUp(size, 64*mib), nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// Info is what the superblock of an ext4 filesystem says.
type Info struct {
	Size    int64  // bytes that the filesystem takes
	MaxDisk int64  // bytes up to which a kernel grows it while it is mounted
	Label   string // may be empty
	// Dirty says, as a clause, why the filesystem has to be mended before VMs
	// start from it; empty: it was unmounted as it should be.
	Dirty string
}

// ErrNotExt4 says that a file is no ext4 filesystem.
var ErrNotExt4 = errors.New("not an ext4 filesystem")

// The superblock is at byte 1024; see Documentation/filesystems/ext4/super.rst
// of the Linux kernel for its fields.
const (
	superOffset = 1024
	superMagic  = 0xEF53

	compatSparseSuper2 = 0x200

	incompatExtents = 0x40
	incompat64bit   = 0x80
	incompatRecover = 0x4

	stateClean  = 1
	stateErrors = 2
)

// Read reads the superblock. What is no ext4 gives an error that wraps
// [ErrNotExt4].
func Read(path string) (Info, error) {
	file, err := os.Open(path)
	if err != nil {
		return Info{}, fmt.Errorf("cannot read a filesystem: %w", err)
	}
	defer file.Close()
	sb := make([]byte, 1024)
	if _, err := file.ReadAt(sb, superOffset); errors.Is(err, io.EOF) {
		return Info{}, fmt.Errorf("%w: it is too short", ErrNotExt4)
	} else if err != nil {
		return Info{}, fmt.Errorf("cannot read a filesystem: %w", err)
	}
	info, err := parseSuperblock(sb)
	if err != nil {
		return Info{}, err
	}
	stat, err := file.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("cannot read a filesystem: %w", err)
	}
	if stat.Mode().IsRegular() && stat.Size() < info.Size {
		return Info{}, fmt.Errorf("%w: it is cut off: the file has %d bytes, the filesystem %d", ErrNotExt4, stat.Size(), info.Size)
	}
	return info, nil
}

func parseSuperblock(sb []byte) (Info, error) {
	le := binary.LittleEndian
	if le.Uint16(sb[0x38:]) != superMagic {
		return Info{}, fmt.Errorf("%w: its magic number is missing", ErrNotExt4)
	}
	features := le.Uint32(sb[0x60:])
	if features&incompatExtents == 0 {
		return Info{}, fmt.Errorf("%w: it has no extents (ext2 or ext3?)", ErrNotExt4)
	}
	blocks := uint64(le.Uint32(sb[0x4:]))
	if features&incompat64bit != 0 {
		blocks |= uint64(le.Uint32(sb[0x150:])) << 32
	}
	shift := le.Uint32(sb[0x18:])
	if shift > 6 || blocks == 0 || blocks > 1<<40 {
		return Info{}, fmt.Errorf("%w: its sizes make no sense", ErrNotExt4)
	}
	label := sb[0x78:0x88]
	for i, c := range label {
		if c == 0 {
			label = label[:i]
			break
		}
	}
	size := int64(blocks << (10 + shift))
	return Info{Size: size, MaxDisk: max(size, growsTo(sb, 10+shift)), Label: string(label), Dirty: dirty(le.Uint16(sb[0x3a:]), features)}, nil
}

// growsTo gives the size to which a filesystem with blocks of 1<<shift bytes can
// be grown while it is mounted, and not more than has been tried: Linux grows
// none with sparse_super2, has block numbers of 32 bits without the 64bit
// feature, and inode numbers of 32 bits always.
func growsTo(sb []byte, shift uint32) int64 {
	le := binary.LittleEndian
	if le.Uint32(sb[0x5c:])&compatSparseSuper2 != 0 {
		return 0
	}
	most := int64(MaxDisk)
	if le.Uint32(sb[0x60:])&incompat64bit == 0 {
		most = min(most, math.MaxUint32<<shift)
	}
	if inodes := int64(le.Uint32(sb[0x28:])); inodes > 0 { // of each group
		groups, blocks := math.MaxUint32/inodes-1, int64(le.Uint32(sb[0x20:]))
		if blocks > 0 && groups < most>>shift/blocks {
			most = groups * blocks << shift
		}
	}
	return most
}

// dirty says what is wrong with a filesystem of this state and these
// incompatible features.
func dirty(state uint16, incompat uint32) string {
	switch {
	case state&stateErrors != 0:
		return "the filesystem has errors"
	case incompat&incompatRecover != 0, state&stateClean == 0:
		return "the filesystem was not unmounted: it is in use, or its machine was cut off"
	}
	return ""
}
