package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

const (
	groupBlocks = 8 * blockSize // blocks of a group: its bitmap is one block
	groupBytes  = groupBlocks * blockSize

	// descriptorsPerBlock is how many groups a block of group descriptors is
	// for, each of 64 bytes.
	descriptorsPerBlock = blockSize / descriptorSize

	// bufferBlocks is how much is written at once.
	bufferBlocks = 256
)

// extent is a run of blocks of a file: count blocks from the block logical of
// its content lie at the block physical of the filesystem.
type extent struct {
	logical, count uint32
	physical       uint64
}

// maxExtent is the most blocks that an initialised extent can have.
const maxExtent = 1 << 15

// blocks hands out the blocks of a filesystem that grows, and writes to them.
// It goes upwards through the file; what was freed is handed out first. Blocks
// are written whole, or not at all, and then they are zeros.
type blocks struct {
	file *os.File

	used  bitmap // up to next
	next  uint64 // nothing from here on was handed out
	freed uint64 // how many below next are free
	low   uint64 // no block below is free

	content    uint64 // how many hold content
	maxContent uint64
	head       uint64 // blocks of superblock and descriptors, with room for more, in each group that has them

	buffer []byte // to be written at bufferAt
	at     uint64 // block
	zeros  []byte // a block
	chunk  []byte // what is read of content
}

func newBlocks(file *os.File, maxContent int64) *blocks {
	b := &blocks{
		file:       file,
		maxContent: uint64(maxContent) / blockSize,
		head:       1 + descriptorBlocks(maxContent),
		buffer:     make([]byte, 0, bufferBlocks*blockSize),
		zeros:      make([]byte, blockSize),
		chunk:      make([]byte, bufferBlocks*blockSize),
	}
	b.enterGroup()
	return b
}

// descriptorBlocks is how many blocks are kept for group descriptors: for
// reservedDisk, or for all that a filesystem with so much content can need.
func descriptorBlocks(maxContent int64) uint64 {
	largest := maxContent + maxContent/8 + 4<<30 // inode tables, directories, journal, room
	return uint64(max(reservedDisk, roundUp(largest, descriptorsPerBlock*groupBytes)) / (descriptorsPerBlock * groupBytes))
}

// capacity is how many blocks the filesystem can have in all.
func (b *blocks) capacity() uint64 { return (b.head - 1) * descriptorsPerBlock * groupBlocks }

// enterGroup keeps the beginning of a group free where it has to be.
func (b *blocks) enterGroup() {
	if b.next%groupBlocks == 0 && hasSuper(b.next/groupBlocks) {
		b.used.setRange(b.next, b.next+b.head)
		b.next += b.head
	}
}

// hasSuper says whether a group has copies of superblock and descriptors
// (sparse_super): 0, 1 and the powers of 3, 5 and 7.
func hasSuper(group uint64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []uint64{3, 5, 7} {
		power := base
		for power < group {
			power *= base
		}
		if power == group {
			return true
		}
	}
	return false
}

// take gives up to want free blocks that lie side by side, at least one.
func (b *blocks) take(want uint64) (at, count uint64) {
	if b.freed > 0 {
		at = b.used.nextClear(b.low)
		count = b.used.clearRun(at, min(want, b.next-at))
		b.low, b.freed = at+count, b.freed-count
	} else {
		at = b.next
		count = min(want, groupBlocks-at%groupBlocks)
		b.next += count
	}
	b.used.setRange(at, at+count)
	b.enterGroup()
	return at, count
}

// takeWhole gives want blocks side by side that nothing was ever written to, so
// that they are zeros. A group must have so many.
func (b *blocks) takeWhole(want uint64) (at uint64) {
	if left := groupBlocks - b.next%groupBlocks; left < want {
		b.low = min(b.low, b.next)
		b.freed += left
		b.next += left
		b.enterGroup()
	}
	at = b.next
	b.used.setRange(at, at+want)
	b.next += want
	b.enterGroup()
	return at
}

func (b *blocks) free(e extent) {
	b.used.clearRange(e.physical, e.physical+uint64(e.count))
	b.freed += uint64(e.count)
	b.low = min(b.low, e.physical)
}

// freeAll frees a file's content.
func (b *blocks) freeAll(n *node) {
	for e := range n.extents {
		b.free(e)
		b.content -= uint64(e.count)
	}
	n.first = extent{}
	if n.more != nil {
		n.more.extents = nil
	}
}

// fill reads the content of a file of n.size bytes and places it.
func (b *blocks) fill(n *node, content io.Reader) error {
	for done := int64(0); done < n.size; {
		chunk := b.chunk[:min(int64(len(b.chunk)), n.size-done)]
		if _, err := io.ReadFull(content, chunk); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("cannot read its content: %w", err)
		}
		whole := b.chunk[:roundUp(int64(len(chunk)), blockSize)]
		clear(whole[len(chunk):])
		if err := b.write(n, uint32(done/blockSize), whole); err != nil {
			return err
		}
		done += int64(len(chunk))
	}
	return nil
}

// write puts data, whole blocks, into a file from its block logical on. Zeros
// become holes.
func (b *blocks) write(n *node, logical uint32, data []byte) error {
	for len(data) > 0 {
		if bytes.Equal(data[:blockSize], b.zeros) {
			data = data[blockSize:]
			logical++
			continue
		}
		end := blockSize
		for end < len(data) && !bytes.Equal(data[end:end+blockSize], b.zeros) {
			end += blockSize
		}
		if err := b.writeRun(n, logical, data[:end]); err != nil {
			return err
		}
		data = data[end:]
		logical += uint32(end / blockSize)
	}
	return nil
}

// writeRun puts data into a file, zeros or not.
func (b *blocks) writeRun(n *node, logical uint32, data []byte) error {
	for len(data) > 0 {
		want := uint64(len(data) / blockSize)
		if b.content+want > b.maxContent {
			return &LimitError{"bytes of content", int64(b.maxContent) * blockSize}
		}
		at, count := b.take(want)
		n.place(extent{logical, uint32(count), at})
		b.content += count
		if err := b.put(at, data[:count*blockSize]); err != nil {
			return err
		}
		data = data[count*blockSize:]
		logical += uint32(count)
	}
	return nil
}

// takeOne takes a block for metadata.
func (b *blocks) takeOne() uint64 {
	at, _ := b.take(1)
	return at
}

// put writes whole blocks, at once or later.
func (b *blocks) put(at uint64, data []byte) error {
	if at != b.at+uint64(len(b.buffer)/blockSize) || len(b.buffer)+len(data) > cap(b.buffer) {
		if err := b.flush(); err != nil {
			return err
		}
		b.at = at
	}
	b.buffer = append(b.buffer, data...)
	return nil
}

func (b *blocks) flush() error {
	if len(b.buffer) == 0 {
		return nil
	}
	_, err := b.file.WriteAt(b.buffer, int64(b.at)*blockSize)
	b.buffer = b.buffer[:0]
	if err != nil {
		return fmt.Errorf("cannot write a filesystem: %w", err)
	}
	return nil
}

// punch makes holes of the blocks that were freed and are free still.
func (b *blocks) punch() error {
	for at := b.low; at < b.next; {
		if at = b.used.nextClear(at); at >= b.next {
			return nil
		}
		count := b.used.clearRun(at, b.next-at)
		err := unix.Fallocate(int(b.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE,
			int64(at)*blockSize, int64(count)*blockSize)
		if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // then they keep what was in them, as free blocks may
			return fmt.Errorf("cannot free blocks of a filesystem: %w", err)
		}
		at += count
	}
	return nil
}

// bitmap has a bit for each block. Bits that were never set are clear.
type bitmap []uint64

func (m *bitmap) setRange(from, to uint64) {
	if need := int(to+63) / 64; need > len(*m) {
		*m = append(*m, make([]uint64, need-len(*m))...)
	}
	m.eachWord(from, to, func(word *uint64, mask uint64) { *word |= mask })
}

func (m *bitmap) clearRange(from, to uint64) {
	m.eachWord(from, to, func(word *uint64, mask uint64) { *word &^= mask })
}

// eachWord goes through the words that have bits of a range, as far as there
// are words.
func (m *bitmap) eachWord(from, to uint64, do func(word *uint64, mask uint64)) {
	to = min(to, uint64(len(*m))*64)
	for from < to {
		start := from % 64
		count := min(64-start, to-from)
		mask := ^uint64(0) >> (64 - count) << start
		do(&(*m)[from/64], mask)
		from += count
	}
}

func (m *bitmap) get(at uint64) bool {
	return at/64 < uint64(len(*m)) && (*m)[at/64]>>(at%64)&1 != 0
}

// nextClear is the first bit from at on that is clear.
func (m *bitmap) nextClear(at uint64) uint64 {
	for at/64 < uint64(len(*m)) {
		if rest := ^(*m)[at/64] >> (at % 64); rest != 0 {
			return at + uint64(bits.TrailingZeros64(rest))
		}
		at = (at/64 + 1) * 64
	}
	return at
}

// clearRun is how many bits from at on are clear, at most limit.
func (m *bitmap) clearRun(at, limit uint64) uint64 {
	count := uint64(0)
	for count < limit && !m.get(at+count) {
		count++
	}
	return count
}

// clear counts the bits that are clear.
func (m *bitmap) clear() uint64 {
	count := 0
	for _, word := range *m {
		count += 64 - bits.OnesCount64(word)
	}
	return uint64(count)
}

// bytes gives the bits as the filesystem has them.
func (m *bitmap) bytes() []byte {
	data := make([]byte, 0, len(*m)*8)
	for _, word := range *m {
		data = binary.LittleEndian.AppendUint64(data, word)
	}
	return data
}
