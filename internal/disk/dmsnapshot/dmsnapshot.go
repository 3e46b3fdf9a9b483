// Package dmsnapshot is the on-disk format of device-mapper's persistent
// snapshots, as far as banger has to know it. The host lays out the
// copy-on-write file with it, the guest's first process checks its header; so
// it imports nothing and may be imported by both.
//
// The format is that of the kernel's drivers/md/dm-snap-persistent.c. The
// device is an array of chunks. Chunk 0 begins with the header; after it come
// areas, each of one chunk of exceptions (16 bytes each: the chunk of the
// origin, the chunk here) followed by as many data chunks as it has
// exceptions. An exception of zeros ends the list, so that a header followed by
// nothing but zeros is an empty snapshot.
package dmsnapshot

import (
	"encoding/binary"
	"errors"
)

const (
	// SectorSize is the unit that device-mapper counts in, in bytes.
	SectorSize = 512

	// ChunkSize is the size of a chunk in the snapshots that banger makes, in
	// bytes. A chunk is what a first write copies, and what an exception of the
	// metadata stands for: small ones make each scattered small write cheap,
	// large ones keep short the metadata that is read at each boot and the table
	// that the guest's kernel holds in memory.
	ChunkSize = 16 << 10

	// HeaderSize is how many bytes at the start of the device matter.
	HeaderSize = 16

	magic         = 0x70416e53 // "SnAp"
	version       = 1
	exceptionSize = 16
	headerChunks  = 1
)

// Header is what a snapshot's first bytes say: magic, valid flag, version,
// chunk size in sectors, each 32 bits, little-endian.
type Header struct {
	// Valid is false once the kernel could not write to the snapshot, for want
	// of space on the host say. The kernel then never activates it again; but
	// what it acknowledged before is all there, and setting the flag again brings
	// it back.
	Valid bool
	// ChunkSectors is the chunk size in sectors.
	ChunkSectors uint32
}

// ErrNew is what a device of zeros gives: no snapshot was ever on it.
var ErrNew = errors.New("the device holds no snapshot yet")

// ParseHeader reads the first HeaderSize bytes of a device.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, errors.New("the snapshot header is cut short")
	}
	word := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	if word(0) == 0 {
		return Header{}, ErrNew
	}
	if word(0) != magic {
		return Header{}, errors.New("the device holds something else than a snapshot")
	}
	if word(2) != version {
		return Header{}, errors.New("the snapshot has an unknown format version")
	}
	if chunk := word(3); chunk == 0 || chunk&(chunk-1) != 0 {
		return Header{}, errors.New("the snapshot's chunk size is no power of two")
	}
	return Header{Valid: word(1) != 0, ChunkSectors: word(3)}, nil
}

// Bytes is the header as it stands on the device.
func (h Header) Bytes() []byte {
	b := make([]byte, HeaderSize)
	binary.LittleEndian.PutUint32(b[0:], magic)
	if h.Valid {
		binary.LittleEndian.PutUint32(b[4:], 1)
	}
	binary.LittleEndian.PutUint32(b[8:], version)
	binary.LittleEndian.PutUint32(b[12:], h.ChunkSectors)
	return b
}

// DeviceSize is how many bytes a copy-on-write device needs so that every
// chunk of a disk of virtual bytes can be written without it ever running
// full. The kernel makes the next area's exceptions as soon as one area is
// full, also when no data will follow: that chunk is counted too.
func DeviceSize(virtual, chunk int64) int64 {
	data := (virtual + chunk - 1) / chunk
	perArea := chunk / exceptionSize
	areas := data/perArea + 1
	return (headerChunks + areas + data) * chunk
}
