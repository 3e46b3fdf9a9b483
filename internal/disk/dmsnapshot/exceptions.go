package dmsnapshot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Exceptions calls f for each chunk that the snapshot holds, with the byte
// where it lies on the disk and the one where it lies in the device, and gives
// the chunk's size in bytes. The device is size bytes long. What points out of
// it, or at the metadata, is refused.
func Exceptions(device io.ReaderAt, size int64, f func(onDisk, inDevice int64) error) (chunk int64, err error) {
	head := make([]byte, HeaderSize)
	if _, err := device.ReadAt(head, 0); err != nil {
		return 0, fmt.Errorf("cannot read the snapshot's header: %w", err)
	}
	header, err := ParseHeader(head)
	if err != nil {
		return 0, err
	}
	chunk = int64(header.ChunkSectors) * SectorSize
	if chunk < exceptionSize || chunk > maxChunk {
		return 0, errors.New("the snapshot's chunk size makes no sense")
	}
	chunks, perArea := size/chunk, chunk/exceptionSize
	area := make([]byte, chunk)
	for at := int64(headerChunks); at < chunks; at += perArea + 1 {
		if _, err := device.ReadAt(area, at*chunk); err != nil {
			return 0, fmt.Errorf("cannot read the snapshot's metadata: %w", err)
		}
		for i := range perArea {
			onDisk := binary.LittleEndian.Uint64(area[i*exceptionSize:])
			inDevice := binary.LittleEndian.Uint64(area[i*exceptionSize+8:])
			if inDevice == 0 {
				return chunk, nil
			}
			if inDevice >= uint64(chunks) || int64(inDevice)%(perArea+1) == headerChunks || onDisk > 1<<62/uint64(chunk) {
				return 0, errors.New("the snapshot's metadata is damaged")
			}
			if err := f(int64(onDisk)*chunk, int64(inDevice)*chunk); err != nil {
				return 0, err
			}
		}
	}
	return chunk, nil
}

// maxChunk is more than any snapshot has.
const maxChunk = 64 << 20
