package ext4

import (
	"encoding/binary"
	"slices"
)

// Extent trees: Documentation/filesystems/ext4/ifork.rst of the Linux kernel.
// All entries of a tree have the same size and begin with the logical block.
const (
	extentMagic  = 0xf30a
	extentHead   = 12
	extentEntry  = 12
	inodeBlocks  = 60 // bytes in an inode for the root of its tree
	rootExtents  = (inodeBlocks - extentHead) / extentEntry
	blockExtents = (blockSize - extentHead - 4) / extentEntry // 4: the checksum
)

// rootOf encodes a tree that needs no blocks of its own.
func rootOf(n *node) (root [inodeBlocks]byte) {
	putLevel(root[:], leaves(n), 0)
	return root
}

// tree writes the blocks that the tree of n needs beside its root.
func (b *blocks) tree(n *node, seed uint32) error {
	if n.more == nil || len(n.more.extents) < rootExtents {
		return nil
	}
	level, depth := leaves(n), 0
	for ; len(level) > rootExtents*extentEntry; depth++ {
		var above []byte
		for part := range slices.Chunk(level, blockExtents*extentEntry) {
			at := b.takeOne()
			above = appendBranch(above, part, at)
			if err := b.put(at, treeBlock(part, depth, seed)); err != nil {
				return err
			}
			n.more.rootBlocks++
		}
		level = above
	}
	n.more.root = new([inodeBlocks]byte)
	putLevel(n.more.root[:], level, depth)
	return nil
}

// leaves encodes a file's extents.
func leaves(n *node) (level []byte) {
	le := binary.LittleEndian
	for e := range n.extents {
		level = le.AppendUint32(level, e.logical)
		level = le.AppendUint16(level, uint16(e.count))
		level = le.AppendUint16(level, uint16(e.physical>>32))
		level = le.AppendUint32(level, uint32(e.physical))
	}
	return level
}

// appendBranch points to the block at, which has the entries part.
func appendBranch(level, part []byte, at uint64) []byte {
	level = append(level, part[:4]...)
	level = binary.LittleEndian.AppendUint32(level, uint32(at))
	return binary.LittleEndian.AppendUint32(level, uint32(at>>32))
}

func treeBlock(entries []byte, depth int, seed uint32) []byte {
	block := make([]byte, blockSize)
	sum := block[blockSize-4:]
	putLevel(block[:blockSize-len(sum)], entries, depth)
	binary.LittleEndian.PutUint32(sum, checksum(seed, block[:blockSize-len(sum)]))
	return block
}

// putLevel fills a root or a block with entries.
func putLevel(at, entries []byte, depth int) {
	le := binary.LittleEndian
	le.PutUint16(at[0:], extentMagic)
	le.PutUint16(at[2:], uint16(len(entries)/extentEntry))
	le.PutUint16(at[4:], uint16((len(at)-extentHead)/extentEntry))
	le.PutUint16(at[6:], uint16(depth))
	copy(at[extentHead:], entries)
}
