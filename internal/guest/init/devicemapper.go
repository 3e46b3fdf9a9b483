package guestinit

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

const sectorSize = 512

// The device-mapper's ioctl interface: linux/dm-ioctl.h, version 4.
const (
	dmDevCreate  = 0xc138fd03 // _IOWR(0xfd, 3, struct dm_ioctl)
	dmDevSuspend = 0xc138fd06 // without the suspend flag: resume, which activates the loaded table
	dmTableLoad  = 0xc138fd09

	dmReadOnly = 1 // DM_READONLY_FLAG

	dmHeaderSize = 312 // sizeof(struct dm_ioctl)
	dmSpecSize   = 40  // sizeof(struct dm_target_spec)
)

// target is one line of a device-mapper table.
type target struct {
	start, sectors uint64
	kind           string // "linear"
	params         string
}

// originTable is the device that the snapshot is a snapshot of: the base, and
// zeros after it up to the size of the virtual disk. It takes no space.
func originTable(base string, baseSectors, diskSectors uint64) []target {
	table := []target{{0, baseSectors, "linear", base + " 0"}}
	if diskSectors > baseSectors {
		table = append(table, target{baseSectors, diskSectors - baseSectors, "zero", ""})
	}
	return table
}

// snapshotTable is the VM's disk: origin, with what was changed since read from
// and written to cow, for good.
func snapshotTable(origin, cow string, sectors, chunkSectors uint64) []target {
	return []target{{0, sectors, "snapshot", origin + " " + cow + " P " + strconv.FormatUint(chunkSectors, 10)}}
}

// encodeTable lays targets out as DM_TABLE_LOAD wants them behind its header:
// for each a struct dm_target_spec and its NUL-ended parameters, padded to 8
// bytes, and in each the distance to the next.
func encodeTable(table []target) []byte {
	var out []byte
	for _, t := range table {
		size := (dmSpecSize + len(t.params) + 1 + 7) &^ 7
		spec := make([]byte, size)
		binary.NativeEndian.PutUint64(spec[0:], t.start)
		binary.NativeEndian.PutUint64(spec[8:], t.sectors)
		binary.NativeEndian.PutUint32(spec[20:], uint32(size))
		copy(spec[24:dmSpecSize], t.kind)
		copy(spec[dmSpecSize:], t.params)
		out = append(out, spec...)
	}
	return out
}

// dmRequest builds the argument of a device-mapper ioctl.
func dmRequest(name string, flags uint32, table []target) []byte {
	data := encodeTable(table)
	req := make([]byte, dmHeaderSize, dmHeaderSize+len(data))
	req = append(req, data...)
	binary.NativeEndian.PutUint32(req[0:], 4) // interface version 4.0.0
	binary.NativeEndian.PutUint32(req[12:], uint32(len(req)))
	binary.NativeEndian.PutUint32(req[16:], dmHeaderSize)
	binary.NativeEndian.PutUint32(req[20:], uint32(len(table)))
	binary.NativeEndian.PutUint32(req[28:], flags)
	copy(req[48:175], name)
	return req
}

// mapDevice makes a device out of table and gives its number as "major:minor".
func mapDevice(name string, flags uint32, table []target) (string, error) {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return "", cannot("open the device-mapper", err)
	}
	defer control.Close()
	created := dmRequest(name, 0, nil)
	if err := dmIoctl(control, dmDevCreate, created); err != nil {
		return "", cannot("create device "+name, err)
	}
	if err := dmIoctl(control, dmTableLoad, dmRequest(name, flags, table)); err != nil {
		return "", cannot("load the table of device "+name, err)
	}
	if err := dmIoctl(control, dmDevSuspend, dmRequest(name, 0, nil)); err != nil {
		return "", cannot("activate device "+name, err)
	}
	return hugeDecode(binary.NativeEndian.Uint64(created[40:])), nil
}

func dmIoctl(control *os.File, request uint, arg []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), uintptr(request), uintptr(unsafe.Pointer(&arg[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// hugeDecode turns the kernel's 64-bit device number (huge_encode_dev) into
// "major:minor".
func hugeDecode(dev uint64) string {
	major := dev >> 8 & 0xfff
	minor := dev&0xff | dev>>12&0xfffff00
	return strconv.FormatUint(major, 10) + ":" + strconv.FormatUint(minor, 10)
}

// deviceNumber gives a block device's number as "major:minor".
func deviceNumber(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", cannot("find "+path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", errors.New("cannot use " + path + ": it is no block device")
	}
	return strconv.FormatUint(uint64(unix.Major(st.Rdev)), 10) + ":" + strconv.FormatUint(uint64(unix.Minor(st.Rdev)), 10), nil
}

// deviceSectors gives a block device's size.
func deviceSectors(path string) (uint64, error) {
	dev, err := os.Open(path)
	if err != nil {
		return 0, cannot("open the disk", err)
	}
	defer dev.Close()
	size, err := dev.Seek(0, 2)
	return uint64(size) / sectorSize, cannot("read the size of "+path, err)
}
