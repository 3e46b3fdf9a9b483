package guestinit

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/disk/dmsnapshot"
)

// deviceTimeout bounds the wait for a drive that the host promised.
const deviceTimeout = 10 * time.Second

// rootDisk is the VM's disk, ready to be mounted.
type rootDisk struct {
	device string // path of the block device
	bytes  uint64 // what its filesystem shall grow to; 0: leave it
}

// openRoot waits for the drivers and the drives and makes the VM's disk of
// them: a snapshot over the base, or the base itself where the VM owns it.
func openRoot(conf config, modules *loader) (rootDisk, error) {
	if err := modules.waitFor("virtio_mmio.ko", "virtio_blk.ko"); err != nil {
		return rootDisk{}, err
	}
	base := "/dev/" + conf.Base
	if conf.Cow == "" {
		return rootDisk{base, conf.Disk}, waitForDevice(base)
	}
	cow := "/dev/" + conf.Cow
	if err := errors.Join(waitForDevice(base), waitForDevice(cow)); err != nil {
		return rootDisk{}, err
	}
	chunk, err := readySnapshot(cow)
	if err != nil {
		return rootDisk{}, err
	}
	if err := modules.waitFor("dm-mod.ko", "dm-bufio.ko", "dm-zero.ko", "dm-snapshot.ko"); err != nil {
		return rootDisk{}, err
	}
	return mapRoot(base, cow, conf.Disk, chunk)
}

// mapRoot puts the disk together. A disk smaller than its base gets the base's
// size: the filesystem on it would not be whole otherwise.
func mapRoot(base, cow string, bytes, chunk uint64) (rootDisk, error) {
	baseSectors, err := deviceSectors(base)
	if err != nil {
		return rootDisk{}, err
	}
	baseNumber, err := deviceNumber(base)
	if err != nil {
		return rootDisk{}, err
	}
	cowNumber, err := deviceNumber(cow)
	if err != nil {
		return rootDisk{}, err
	}
	sectors := max(bytes/sectorSize, baseSectors)
	origin, err := mapDevice("banger-origin", dmReadOnly, originTable(baseNumber, baseSectors, sectors))
	if err != nil {
		return rootDisk{}, err
	}
	root, err := mapDevice("banger-root", 0, snapshotTable(origin, cowNumber, sectors, chunk))
	if err != nil {
		return rootDisk{}, err
	}
	device, err := blockNode(root)
	return rootDisk{device, bytes}, err
}

// blockNode gives the path of a block device by its number. Device-mapper's
// nodes are named by their minor number.
func blockNode(number string) (string, error) {
	name, err := os.Readlink("/sys/dev/block/" + number)
	if err != nil {
		return "", cannot("find the root disk's device", err)
	}
	path := "/dev/" + lastElement(name)
	return path, waitForDevice(path)
}

func lastElement(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

// readySnapshot reads the header of the copy-on-write device and gives its
// chunk size in sectors. One that the kernel invalidated (the host had no space
// for a write) is made valid again: what it acknowledged is all there, and the
// filesystem's journal does the rest.
func readySnapshot(cow string) (chunk uint64, err error) {
	dev, err := os.OpenFile(cow, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, cannot("open the VM's disk", err)
	}
	defer dev.Close()
	head := make([]byte, dmsnapshot.HeaderSize)
	if _, err := dev.ReadAt(head, 0); err != nil {
		return 0, cannot("read the VM's disk", err)
	}
	header, err := dmsnapshot.ParseHeader(head)
	if errors.Is(err, dmsnapshot.ErrNew) {
		return dmsnapshot.ChunkSize / dmsnapshot.SectorSize, nil
	}
	if err != nil {
		return 0, cannot("use the VM's disk", err)
	}
	if header.Valid {
		return uint64(header.ChunkSectors), nil
	}
	return uint64(header.ChunkSectors), revalidate(dev, header)
}

func revalidate(dev *os.File, header dmsnapshot.Header) error {
	mark("the disk was cut off by a failed write; taking it up again")
	header.Valid = true
	if _, err := dev.WriteAt(header.Bytes(), 0); err != nil {
		return cannot("take up the VM's disk again", err)
	}
	return cannot("take up the VM's disk again", dev.Sync())
}

// mountRoot mounts the disk's ext4 filesystem, replaying its journal, and grows
// it to the disk's size, unless it is one that Linux grows not at all.
//
// The inode tables of new groups lie on blocks that read as zeros anyway, and
// the kernel must not fill the host's disk by zeroing them: not in the
// background (init_itable, the default), and not at once while it grows, as it
// would without. So a filesystem that grows changes its mind afterwards; see
// settleRoot.
func mountRoot(root rootDisk) error {
	have, err := filesystemSize(root.device)
	if err != nil {
		return err
	}
	grows := root.bytes > have.bytes() && !have.fixed
	options := quietTables
	if grows {
		options = ""
	}
	if err := unix.Mount(root.device, newRoot, "ext4", 0, options); err != nil {
		return cannot("mount the root filesystem", err)
	}
	if !grows {
		return nil
	}
	return grow(root.bytes / have.blockSize)
}

// quietTables keeps ext4 from zeroing inode tables.
const quietTables = "noinit_itable"

// settleRoot puts the root filesystem's options right after it grew. It writes
// the journal, which takes its time, so it is done beside the agent's start.
func settleRoot() error {
	return cannot("set the root filesystem's options", unix.Mount("", "/", "", unix.MS_REMOUNT, quietTables))
}

// extent is the size of an ext4 filesystem.
type extent struct {
	blocks, blockSize uint64
	fixed             bool // Linux does not grow it while it is mounted
}

func (e extent) bytes() uint64 { return e.blocks * e.blockSize }

func filesystemSize(device string) (extent, error) {
	dev, err := os.Open(device)
	if err != nil {
		return extent{}, cannot("open the root filesystem", err)
	}
	defer dev.Close()
	super := make([]byte, 1024)
	if _, err := dev.ReadAt(super, 1024); err != nil {
		return extent{}, cannot("read the root filesystem", err)
	}
	return parseSuperblock(super)
}

// parseSuperblock reads an ext4 filesystem's size from its superblock
// (kernel documentation, filesystems/ext4/super.rst).
func parseSuperblock(super []byte) (extent, error) {
	const (
		magic         = 0xef53
		featureBits64 = 0x80  // of the incompatible ones
		sparseSuper2  = 0x200 // of the compatible ones
	)
	word := func(at int) uint64 { return uint64(binary.LittleEndian.Uint32(super[at:])) }
	if binary.LittleEndian.Uint16(super[0x38:]) != magic || word(0x18) > 6 {
		return extent{}, errors.New("cannot mount the root filesystem: it is no ext4 filesystem")
	}
	size := extent{blocks: word(0x4), blockSize: 1024 << word(0x18), fixed: word(0x5c)&sparseSuper2 != 0}
	if word(0x60)&featureBits64 != 0 {
		size.blocks |= word(0x150) << 32
	}
	return size, nil
}

// ext4Resize is EXT4_IOC_RESIZE_FS: _IOW('f', 16, __u64), a number of blocks.
const ext4Resize = 0x40086610

func grow(blocks uint64) error {
	root, err := os.Open(newRoot)
	if err != nil {
		return cannot("open the root filesystem", err)
	}
	defer root.Close()
	arg := make([]byte, 8)
	binary.NativeEndian.PutUint64(arg, blocks)
	return cannot("grow the root filesystem to "+strconv.FormatUint(blocks, 10)+" blocks", dmIoctl(root, ext4Resize, arg))
}

// waitForDevice returns when path is there. Drivers have usually made it before
// they are asked for; where they have not, the kernel's event tells.
func waitForDevice(path string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return cannot("wait for "+path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, "/dev", unix.IN_CREATE); err != nil {
		return cannot("wait for "+path, err)
	}
	deadline := time.Now().Add(deviceTimeout)
	for !exists(path) {
		left := time.Until(deadline)
		if left <= 0 {
			return errors.New("cannot find " + path + ": the kernel lacks what it takes to see the drive, or the host gave this machine none")
		}
		awaitEvent(fd, left)
	}
	return nil
}

func awaitEvent(fd int, timeout time.Duration) {
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(timeout.Milliseconds())+1)
	var events [4096]byte
	_, _ = unix.Read(fd, events[:])
}

func exists(path string) bool {
	return unix.Access(path, unix.F_OK) == nil
}
