package ext4

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// The formats are in Documentation/filesystems/ext4/directory.rst of the Linux
// kernel. A directory of one block is a list of entries; a larger one has an
// index by the hashes of the names: its first block is the index's root, and
// between root and lists there may be one more level.
const (
	entryHead = 8 // of a directory entry, before the name

	// Each list ends with a checksum that looks like an unused entry.
	listTail    = 12
	listRoom    = blockSize - listTail
	tailType    = 0xde
	indexTail   = 8
	indexEntry  = 8
	rootEntries = 32 // where they begin in the root of an index
	nodeEntries = 8  // and in the blocks below

	rootLimit = (blockSize - rootEntries - indexTail) / indexEntry
	nodeLimit = (blockSize - nodeEntries - indexTail) / indexEntry

	// maxLists is how many lists a directory can have: large_dir, which would
	// allow more, is not used.
	maxLists = rootLimit * nodeLimit
)

// name is an entry of a directory.
type name struct {
	text   string
	number uint32 // of the inode
	kind   uint8
	hash   uint32
}

func (n name) size() int { return entrySize(n.text) }

func entrySize(text string) int { return (entryHead + len(text) + 3) &^ 3 }

// kinds are the numbers of file types in directory entries.
var kinds = map[uint32]uint8{
	modeRegular: 1, modeDirectory: 2, modeChar: 3, modeBlock: 4, modeFIFO: 5, modeSocket: 6, modeSymlink: 7,
}

// directory is one to be encoded.
type directory struct {
	number, parent uint32
	names          []name
	seed           uint32 // of its checksums
}

// encode gives the directory's blocks, one after the other, and whether they
// have an index. More names than an index can hold give nil.
func (d *directory) encode(hashSeed []byte) (data []byte, indexed bool) {
	size := entrySize(".") + entrySize("..")
	for _, n := range d.names {
		size += n.size()
	}
	if size <= listRoom {
		return d.encodeList(make([]byte, 0, blockSize), append(d.dots(), d.names...)), false
	}
	for i := range d.names {
		d.names[i].hash = nameHash(d.names[i].text, hashSeed)
	}
	slices.SortFunc(d.names, func(a, b name) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.text, b.text))
	})
	lists := splitNames(d.names)
	if len(lists) > maxLists {
		return nil, false
	}
	return d.encodeIndexed(lists), true
}

func (d *directory) dots() []name {
	return []name{{text: ".", number: d.number, kind: 2}, {text: "..", number: d.parent, kind: 2}}
}

// splitNames cuts names into lists that fit in a block each.
func splitNames(names []name) [][]name {
	var lists [][]name
	start, size := 0, 0
	for i, n := range names {
		if size+n.size() > listRoom {
			lists = append(lists, names[start:i])
			start, size = i, 0
		}
		size += n.size()
	}
	return append(lists, names[start:])
}

// encodeList appends a block that lists names.
func (d *directory) encodeList(to []byte, names []name) []byte {
	block := make([]byte, blockSize)
	le := binary.LittleEndian
	at := 0
	for i, n := range names {
		size := n.size()
		if i == len(names)-1 {
			size = listRoom - at
		}
		putEntry(block[at:], n, size)
		at += size
	}
	tail := block[listRoom:]
	le.PutUint16(tail[4:], listTail)
	tail[7] = tailType
	le.PutUint32(tail[8:], checksum(d.seed, block[:listRoom]))
	return append(to, block...)
}

func putEntry(at []byte, n name, size int) {
	binary.LittleEndian.PutUint32(at, n.number)
	binary.LittleEndian.PutUint16(at[4:], uint16(size))
	at[6], at[7] = uint8(len(n.text)), n.kind
	copy(at[entryHead:], n.text)
}

// pointer is an entry of an index: names from hash on are in or below block, a
// number within the directory.
type pointer struct{ hash, block uint32 }

// encodeIndexed gives the root, the level below it where there must be one, and
// the lists.
func (d *directory) encodeIndexed(lists [][]name) []byte {
	nodes := 0
	if len(lists) > rootLimit {
		nodes = (len(lists) + nodeLimit - 1) / nodeLimit
	}
	pointers := make([]pointer, len(lists))
	for i, list := range lists {
		pointers[i] = pointer{list[0].hash, uint32(1 + nodes + i)}
		if i > 0 && list[0].hash == lists[i-1][len(lists[i-1])-1].hash {
			pointers[i].hash |= 1 // the hash goes on from the list before
		}
	}
	data := make([]byte, 0, (1+nodes+len(lists))*blockSize)
	if nodes == 0 {
		data = d.encodeRoot(data, pointers, 0)
	} else {
		var above []pointer
		for i, part := range slices.Collect(slices.Chunk(pointers, nodeLimit)) {
			above = append(above, pointer{part[0].hash, uint32(1 + i)})
		}
		data = d.encodeRoot(data, above, 1)
		for part := range slices.Chunk(pointers, nodeLimit) {
			data = d.encodeNode(data, part)
		}
	}
	for _, list := range lists {
		data = d.encodeList(data, list)
	}
	return data
}

func (d *directory) encodeRoot(to []byte, pointers []pointer, levels uint8) []byte {
	block := make([]byte, blockSize)
	dots := d.dots()
	putEntry(block, dots[0], dots[0].size())
	putEntry(block[dots[0].size():], dots[1], blockSize-dots[0].size())
	info := block[dots[0].size()+dots[1].size():]
	info[4], info[5], info[6] = hashHalfMD4, 8, levels // 8 is the size of this
	return append(to, d.putPointers(block, rootEntries, rootLimit, pointers)...)
}

func (d *directory) encodeNode(to []byte, pointers []pointer) []byte {
	block := make([]byte, blockSize)
	binary.LittleEndian.PutUint16(block[4:], blockSize) // an unused entry that takes the block
	return append(to, d.putPointers(block, nodeEntries, nodeLimit, pointers)...)
}

// putPointers fills a block of an index from the byte at on. The place of the
// first hash, which needs none, has limit and count.
func (d *directory) putPointers(block []byte, at, limit int, pointers []pointer) []byte {
	le := binary.LittleEndian
	for i, p := range pointers {
		le.PutUint32(block[at+i*indexEntry:], p.hash)
		le.PutUint32(block[at+i*indexEntry+4:], p.block)
	}
	le.PutUint16(block[at:], uint16(limit))
	le.PutUint16(block[at+2:], uint16(len(pointers)))
	tail := block[at+limit*indexEntry:]
	le.PutUint32(tail[4:], checksum(d.seed, block[:at+len(pointers)*indexEntry], tail[:4], word(0)))
	return block
}
