package ext4

import (
	"encoding/binary"
	"time"
)

// Inodes: Documentation/filesystems/ext4/inodes.rst of the Linux kernel.
const (
	inodeFields = 160 // bytes of an inode that have names
	extraFields = 32  // of them are behind the first 128

	flagIndexed = 0x1000
	flagExtents = 0x80000

	rootInode    = 2
	resizeInode  = 7
	journalInode = 8
	firstInode   = 11 // the first that is not reserved

	maxLinks = 65000

	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1

	shortSymlink = inodeBlocks - 1 // bytes of a target that is kept in the inode

	sectorsPerBlock = blockSize / 512
)

// The times that an inode can have: 34 bits of seconds, from the smallest that
// 32 signed bits have.
const (
	minSeconds = -1 << 31
	maxSeconds = minSeconds + 1<<34 - 1
)

// encodableTime gives the nearest time that an inode can have.
func encodableTime(t time.Time) (seconds int64, nanos uint32) {
	seconds = t.Unix()
	switch {
	case seconds < minSeconds:
		return minSeconds, 0
	case seconds > maxSeconds:
		return maxSeconds, 0
	}
	return seconds, uint32(t.Nanosecond())
}

// inode is one to be encoded.
type inode struct {
	node   *node
	links  uint32
	root   [inodeBlocks]byte // i_block
	blocks uint64            // that it takes
	flags  uint32
}

// encode gives the inode as it lies in the inode table. made is when the
// filesystem was.
func (i inode) encode(made time.Time, seed uint32) []byte {
	le := binary.LittleEndian
	data := make([]byte, inodeSize)
	n := i.node
	le.PutUint16(data[0x00:], uint16(n.mode))
	le.PutUint16(data[0x02:], uint16(n.uid))
	le.PutUint32(data[0x04:], uint32(n.size))
	le.PutUint16(data[0x18:], uint16(n.gid))
	le.PutUint16(data[0x1a:], uint16(i.links))
	sectors := i.blocks * sectorsPerBlock
	le.PutUint32(data[0x1c:], uint32(sectors))
	le.PutUint32(data[0x20:], i.flags)
	copy(data[0x28:], i.root[:])
	le.PutUint32(data[0x6c:], uint32(n.size>>32))
	le.PutUint16(data[0x74:], uint16(sectors>>32))
	le.PutUint16(data[0x78:], uint16(n.uid>>16))
	le.PutUint16(data[0x7a:], uint16(n.gid>>16))
	le.PutUint16(data[0x80:], extraFields)
	i.putTimes(data, made)
	i.putXattrs(data)
	sealInode(data, n.number, seed)
	return data
}

func (i inode) putTimes(data []byte, made time.Time) {
	put := func(at, extraAt int, seconds int64, nanos uint32) {
		epoch := uint32((seconds - int64(int32(seconds))) >> 32)
		binary.LittleEndian.PutUint32(data[at:], uint32(seconds))
		binary.LittleEndian.PutUint32(data[extraAt:], nanos<<2|epoch&3)
	}
	seconds, nanos := encodableTime(made)
	put(0x08, 0x8c, i.node.seconds, i.node.nanos) // access
	put(0x0c, 0x84, seconds, nanos)               // change of the inode
	put(0x10, 0x88, i.node.seconds, i.node.nanos) // modification
	put(0x90, 0x94, seconds, nanos)               // creation
}

func (i inode) putXattrs(data []byte) {
	if i.node.more == nil || len(i.node.more.xattrs) == 0 {
		return
	}
	binary.LittleEndian.PutUint32(data[0x68:], uint32(i.node.more.xattrBlock))
	binary.LittleEndian.PutUint16(data[0x76:], uint16(i.node.more.xattrBlock>>32))
	inside, _ := splitXattrs(mustStore(i.node.more.xattrs))
	if len(inside) == 0 {
		return
	}
	binary.LittleEndian.PutUint32(data[inodeFields:], xattrMagic)
	putXattrs(data, inodeFields+4, inodeFields+4, inside)
}

// sealInode puts the checksum into an inode.
func sealInode(data []byte, number, seed uint32) {
	sum := checksum(inodeSeed(seed, number), data)
	binary.LittleEndian.PutUint16(data[0x7c:], uint16(sum))
	binary.LittleEndian.PutUint16(data[0x82:], uint16(sum>>16))
}

// deviceNumber gives what i_block has for a device.
func deviceNumber(major, minor uint32) (root [inodeBlocks]byte) {
	if major < 256 && minor < 256 {
		binary.LittleEndian.PutUint32(root[0:], major<<8|minor)
	} else {
		binary.LittleEndian.PutUint32(root[4:], minor&0xff|major<<8|minor&^0xff<<12)
	}
	return root
}

// inodeOf gives the inode of a node whose blocks are all placed.
func inodeOf(n *node) inode {
	i := inode{node: n, links: n.links}
	for e := range n.extents {
		i.blocks += uint64(e.count)
	}
	if n.more != nil {
		i.blocks += n.more.rootBlocks
		if n.more.xattrBlock != 0 {
			i.blocks++
		}
		if n.more.indexed {
			i.flags |= flagIndexed
		}
	}
	switch n.mode & modeType {
	case modeChar, modeBlock:
		i.root = deviceNumber(n.more.major, n.more.minor)
	case modeSymlink:
		if n.size <= shortSymlink {
			copy(i.root[:], n.more.target)
			break
		}
		fallthrough
	case modeRegular, modeDirectory:
		i.flags |= flagExtents
		if n.more != nil && n.more.root != nil {
			i.root = *n.more.root
		} else {
			i.root = rootOf(n)
		}
	}
	return i
}
