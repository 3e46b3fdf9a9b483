package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the kernel's crc32c: without the inversions at begin and end.
func checksum(seed uint32, data ...[]byte) uint32 {
	crc := ^seed
	for _, d := range data {
		crc = crc32.Update(crc, castagnoli, d)
	}
	return ^crc
}

// word is a number as metadata that is checksummed has it.
func word(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }

// inodeSeed is what the metadata that belongs to an inode is checksummed with.
func inodeSeed(seed, number uint32) uint32 {
	return checksum(seed, word(number), word(0)) // its generation is 0
}
