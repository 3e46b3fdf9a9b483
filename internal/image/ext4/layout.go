package ext4

import (
	"encoding/binary"
	"time"
)

// Superblock and group descriptors:
// Documentation/filesystems/ext4/{super,group_descr}.rst of the Linux kernel.
const (
	descriptorSize = 64

	// The features are those that mke2fs is told in profile.
	compatFeatures   = 0x4 | 0x8 | 0x10 | 0x20                       // has_journal, ext_attr, resize_inode, dir_index
	incompatFeatures = 0x2 | incompatExtents | incompat64bit | 0x200 // filetype, …, flex_bg
	readOnlyFeatures = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400         // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum

	flagUnsignedHash  = 0x2
	flagTableZeroed   = 0x4       // of a group: its inode table needs no zeroing
	mountOptions      = 0x4 | 0x8 // user_xattr, acl
	groupsPerFlexLog  = 4
	leastGroupInodes  = groupBytes / bytesPerInode
	mostGroupInodes   = 8 * blockSize
	inodesPerBlock    = blockSize / inodeSize
	journalBlocks     = journalMiB * mib / blockSize
	sizeStep          = 64 * mib / blockSize // a filesystem has a multiple of so many blocks
	roomBlocks        = 256 * mib / blockSize
	pointersPerBlock  = blockSize / 4
	directPointers    = 12
	doubleIndirect    = 13
	resizeInodeBlocks = directPointers + pointersPerBlock + pointersPerBlock*pointersPerBlock
)

// layout is where everything of the filesystem lies. Bitmaps and inode tables
// may be anywhere (flex_bg), so they come when all else is in its place.
type layout struct {
	total       uint64 // blocks
	groups      uint64
	groupInodes uint64
	inodes      []*node // from firstInode on

	tables       []uint64 // of the groups
	blockBitmaps []uint64
	inodeBitmaps []uint64
	journal      uint64
	resize       uint64 // the block that points to the reserved descriptors

	seed uint32
}

// lastInode is the largest number of an inode that is used.
func (l *layout) lastInode() uint64 { return firstInode - 1 + uint64(len(l.inodes)) }

// plan sizes the filesystem and places the rest of its metadata.
func (w *Writer) plan(inodes []*node, seed uint32) (*layout, error) {
	l := &layout{inodes: inodes, seed: seed}
	b := w.blocks
	base := b.next + journalBlocks + roomBlocks + b.content/16
	l.size(base)
	for {
		// What the metadata takes, with the beginnings of groups and what
		// does not fit before them.
		need := base + l.groups*(2+l.groupInodes/inodesPerBlock+b.head)
		if need <= l.total {
			break
		}
		l.size(need)
	}
	if l.total > b.capacity() {
		return nil, &LimitError{"bytes", int64(b.capacity()) * blockSize}
	}
	l.place(b)
	return l, nil
}

// size makes the filesystem at least so many blocks large.
func (l *layout) size(blocks uint64) {
	l.total = uint64(roundUp(int64(blocks), sizeStep))
	l.groups = (l.total + groupBlocks - 1) / groupBlocks
	wanted := l.lastInode() * 5 / 4 / l.groups
	l.groupInodes = min(max(leastGroupInodes, uint64(roundUp(int64(wanted+1), 8*inodesPerBlock))), mostGroupInodes)
	if l.groups*l.groupInodes < l.lastInode()*5/4 {
		l.size(l.total + sizeStep)
	}
}

func (l *layout) place(b *blocks) {
	for range l.groups {
		l.blockBitmaps = append(l.blockBitmaps, b.takeOne())
	}
	for range l.groups {
		l.inodeBitmaps = append(l.inodeBitmaps, b.takeOne())
	}
	l.resize = b.takeOne()
	for range l.groups {
		l.tables = append(l.tables, b.takeWhole(l.groupInodes/inodesPerBlock))
	}
	l.journal = b.takeWhole(journalBlocks)
	for group := b.next/groupBlocks + 1; group < l.groups; group++ {
		if hasSuper(group) {
			b.used.setRange(group*groupBlocks, group*groupBlocks+b.head)
		}
	}
}

// writeLayout writes all that is not content, directories or their like.
func (w *Writer) writeLayout(l *layout) error {
	for _, write := range []func(*layout) error{w.writeJournal, w.writeReserved, w.writeInodes, w.writeGroups} {
		if err := write(l); err != nil {
			return err
		}
	}
	if err := w.blocks.flush(); err != nil {
		return err
	}
	if err := w.blocks.punch(); err != nil {
		return err
	}
	return w.blocks.file.Truncate(int64(l.total) * blockSize)
}

// writeJournal begins the journal, which is empty: the rest of it is holes.
// See Documentation/filesystems/ext4/journal.rst.
func (w *Writer) writeJournal(l *layout) error {
	be := binary.BigEndian
	super := make([]byte, blockSize)
	be.PutUint32(super[0x00:], 0xc03b3998)
	be.PutUint32(super[0x04:], 4) // a superblock of version 2
	be.PutUint32(super[0x0c:], blockSize)
	be.PutUint32(super[0x10:], journalBlocks)
	be.PutUint32(super[0x14:], 1) // the first block of the log
	be.PutUint32(super[0x18:], 1) // the first transaction's number
	copy(super[0x30:], w.options.UUID[:])
	be.PutUint32(super[0x40:], 1) // one filesystem uses it
	return w.blocks.put(l.journal, super)
}

// journalNode is the journal as a file.
func journalNode(l *layout, made time.Time) *node {
	n := &node{number: journalInode, mode: modeRegular | 0o600, links: 1, size: journalBlocks * blockSize}
	n.seconds, n.nanos = encodableTime(made)
	n.place(extent{0, journalBlocks, l.journal})
	return n
}

// reserved is how many blocks are kept for descriptors of groups to come.
func (b *blocks) reserved(l *layout) uint64 {
	return b.head - 1 - descriptorsUsed(l)
}

func descriptorsUsed(l *layout) uint64 {
	return (l.groups + descriptorsPerBlock - 1) / descriptorsPerBlock
}

// backups lists the groups but the first that have a superblock.
func (l *layout) backups() []uint64 {
	var groups []uint64
	for group := uint64(1); group < l.groups; group++ {
		if hasSuper(group) {
			groups = append(groups, group)
		}
	}
	return groups
}

// writeReserved writes the blocks of the resize inode: one that points to the
// reserved blocks of the first group, and these, which point to their
// counterparts in the groups that have copies.
func (w *Writer) writeReserved(l *layout) error {
	le := binary.LittleEndian
	pointers := make([]byte, blockSize)
	used := descriptorsUsed(l)
	for i := used; i < used+w.blocks.reserved(l); i++ {
		block := make([]byte, blockSize)
		for j, group := range l.backups() {
			le.PutUint32(block[4*j:], uint32(group*groupBlocks+1+i))
		}
		if err := w.blocks.put(1+i, block); err != nil {
			return err
		}
		le.PutUint32(pointers[4*(i%pointersPerBlock):], uint32(1+i))
	}
	return w.blocks.put(l.resize, pointers)
}

// resizeInodeOf is the inode that keeps room for descriptors. It has blocks as
// files had them before extents.
func (w *Writer) resizeInodeOf(l *layout) inode {
	n := &node{number: resizeInode, mode: modeRegular | 0o600, links: 1, size: resizeInodeBlocks * blockSize}
	n.seconds, n.nanos = encodableTime(w.time)
	i := inode{node: n, links: 1, blocks: 1 + w.blocks.reserved(l)*uint64(1+len(l.backups()))}
	binary.LittleEndian.PutUint32(i.root[4*doubleIndirect:], uint32(l.resize))
	return i
}

// writeInodes writes the inode tables, as far as they are used.
func (w *Writer) writeInodes(l *layout) error {
	block := make([]byte, 0, blockSize)
	for number := uint64(1); number <= l.lastInode(); number++ {
		block = append(block, w.encodeInode(l, uint32(number))...)
		if len(block) < blockSize && number < l.lastInode() {
			continue
		}
		index := number - 1
		at := l.tables[index/l.groupInodes] + index%l.groupInodes/inodesPerBlock
		if err := w.blocks.put(at, block[:blockSize:blockSize]); err != nil {
			return err
		}
		clear(block[:blockSize])
		block = block[:0]
	}
	return nil
}

func (w *Writer) encodeInode(l *layout, number uint32) []byte {
	switch {
	case number >= firstInode:
		return inodeOf(l.inodes[number-firstInode]).encode(w.time, l.seed)
	case number == rootInode:
		return inodeOf(w.root).encode(w.time, l.seed)
	case number == journalInode:
		return inodeOf(journalNode(l, w.time)).encode(w.time, l.seed)
	case number == resizeInode && w.blocks.reserved(l) > 0:
		return w.resizeInodeOf(l).encode(w.time, l.seed)
	default:
		return inode{node: &node{number: number}}.encode(time.Unix(0, 0), l.seed)
	}
}

// writeGroups writes the bitmaps, and descriptors and superblock in each group
// that has them.
func (w *Writer) writeGroups(l *layout) error {
	descriptors := make([]byte, descriptorsUsed(l)*blockSize)
	free := uint64(0)
	directories := l.directories()
	for group := range l.groups {
		d, err := w.writeBitmaps(l, group)
		if err != nil {
			return err
		}
		d.directories = directories[group]
		free += d.freeBlocks
		copy(descriptors[group*descriptorSize:], d.encode(l, group))
	}
	super := w.superblock(l, free)
	for _, group := range append(l.backups(), 0) {
		if err := w.blocks.put(group*groupBlocks+1, descriptors); err != nil {
			return err
		}
		if err := w.blocks.put(group*groupBlocks, superBlock(super, group)); err != nil {
			return err
		}
	}
	return nil
}

// directories counts them for each group.
func (l *layout) directories() []uint64 {
	counts := make([]uint64, l.groups)
	counts[0] = 1 // the root
	for i, n := range l.inodes {
		if n.isDirectory() {
			counts[(uint64(i)+firstInode-1)/l.groupInodes]++
		}
	}
	return counts
}

// descriptor is what a group's descriptor says beside the places in layout.
type descriptor struct {
	freeBlocks, freeInodes, directories uint64
	blockSum, inodeSum                  uint32 // of its bitmaps
}

func (w *Writer) writeBitmaps(l *layout, group uint64) (descriptor, error) {
	var d descriptor
	blockBits := w.blockBitmap(l, group)
	inodes := make(bitmap, blockSize/8)
	first := group * l.groupInodes
	d.freeInodes = l.groupInodes - min(l.groupInodes, l.lastInode()-min(l.lastInode(), first))
	inodes.setRange(0, l.groupInodes-d.freeInodes)
	inodes.setRange(l.groupInodes, blockSize*8)
	d.freeBlocks = blockBits.clear()
	blockData, inodeData := blockBits.bytes(), inodes.bytes()
	d.blockSum = checksum(l.seed, blockData)
	d.inodeSum = checksum(l.seed, inodeData[:l.groupInodes/8])
	if err := w.blocks.put(l.blockBitmaps[group], blockData); err != nil {
		return d, err
	}
	return d, w.blocks.put(l.inodeBitmaps[group], inodeData)
}

// blockBitmap is a group's, with what is behind the end of the filesystem set.
func (w *Writer) blockBitmap(l *layout, group uint64) bitmap {
	all := make(bitmap, groupBlocks/64)
	if from := group * groupBlocks / 64; from < uint64(len(w.blocks.used)) {
		copy(all, w.blocks.used[from:])
	}
	if end := l.total - group*groupBlocks; end < groupBlocks {
		all.setRange(end, groupBlocks)
	}
	return all
}

func (d descriptor) encode(l *layout, group uint64) []byte {
	le := binary.LittleEndian
	data := make([]byte, descriptorSize)
	unused := d.freeInodes // the used ones are the first
	for _, n := range []struct {
		at, highAt int
		value      uint64
	}{{0x0, 0x20, l.blockBitmaps[group]}, {0x4, 0x24, l.inodeBitmaps[group]}, {0x8, 0x28, l.tables[group]}} {
		le.PutUint32(data[n.at:], uint32(n.value))
		le.PutUint32(data[n.highAt:], uint32(n.value>>32))
	}
	for _, n := range []struct {
		at, highAt int
		value      uint64
	}{
		{0xc, 0x2c, d.freeBlocks}, {0xe, 0x2e, d.freeInodes}, {0x10, 0x30, d.directories}, {0x1c, 0x32, unused},
		{0x18, 0x38, uint64(d.blockSum)}, {0x1a, 0x3a, uint64(d.inodeSum)},
	} {
		le.PutUint16(data[n.at:], uint16(n.value))
		le.PutUint16(data[n.highAt:], uint16(n.value>>16))
	}
	le.PutUint16(data[0x12:], flagTableZeroed)
	le.PutUint16(data[0x1e:], uint16(checksum(l.seed, word(uint32(group)), data)))
	return data
}

// superblock is the first one's content.
func (w *Writer) superblock(l *layout, free uint64) []byte {
	le := binary.LittleEndian
	made, _ := encodableTime(w.time)
	sb := make([]byte, 1024)
	for at, value := range map[int]uint64{
		0x00: l.groups * l.groupInodes,
		0x04: l.total & 0xffffffff,
		0x0c: free & 0xffffffff,
		0x10: l.groups*l.groupInodes - l.lastInode(),
		0x18: 2, // blocks of 4 KiB
		0x1c: 2,
		0x20: groupBlocks,
		0x24: groupBlocks,
		0x28: l.groupInodes,
		0x30: uint64(uint32(made)),
		0x40: uint64(uint32(made)),
		0x4c: 1, // revision
		0x54: firstInode,
		0x5c: compatFeatures,
		0x60: incompatFeatures,
		0x64: readOnlyFeatures,
		0xe0: journalInode,

		0x100: mountOptions,
		0x108: uint64(uint32(made)),
		0x150: l.total >> 32,
		0x158: free >> 32,
		0x160: flagUnsignedHash,
	} {
		le.PutUint32(sb[at:], uint32(value))
	}
	for at, value := range map[int]uint16{
		0x36:  0xffff, // no check after a number of mounts
		0x38:  superMagic,
		0x3a:  1, // clean
		0x3c:  1, // go on after errors
		0x58:  inodeSize,
		0xce:  uint16(w.blocks.reserved(l)),
		0xfe:  descriptorSize,
		0x15c: extraFields,
		0x15e: extraFields,
	} {
		le.PutUint16(sb[at:], value)
	}
	copy(sb[0x68:], w.options.UUID[:])
	copy(sb[0x78:0x88], w.options.Label)
	copy(sb[0xec:], w.options.hashSeed())
	sb[0xfc] = hashHalfMD4
	w.backUpJournal(l, sb)
	sb[0x174] = groupsPerFlexLog
	sb[0x175] = 1 // crc32c
	return sb
}

// backUpJournal puts a copy of the journal's place into the superblock.
func (w *Writer) backUpJournal(l *layout, sb []byte) {
	sb[0xfd] = 1 // there is one
	root := inodeOf(journalNode(l, w.time)).root
	copy(sb[0x10c:], root[:])
	binary.LittleEndian.PutUint32(sb[0x10c+inodeBlocks+4:], journalBlocks*blockSize)
}

// superBlock is the block of a group that has the superblock.
func superBlock(sb []byte, group uint64) []byte {
	block := make([]byte, blockSize)
	at := block
	if group == 0 {
		at = block[superOffset:]
	}
	copy(at, sb)
	binary.LittleEndian.PutUint16(at[0x5a:], uint16(group))
	binary.LittleEndian.PutUint32(at[0x3fc:], checksum(^uint32(0), at[:0x3fc]))
	return block
}
