package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Extended attributes lie behind the inode's fields and in one block of their
// own: Documentation/filesystems/ext4/attributes.rst of the Linux kernel.
const (
	xattrMagic      = 0xea020000
	xattrHead       = 16 // of an entry, before the name
	xattrBlockHead  = 32
	xattrInodeRoom  = inodeSize - inodeFields - 4 // behind the magic number
	xattrBlockRoom  = blockSize - xattrBlockHead
	xattrTerminator = 4
)

// xattrPrefixes are kept as numbers. The first that fits is taken.
var xattrPrefixes = []struct {
	text   string
	number uint8
	whole  bool // it is the whole name
}{
	{"system.posix_acl_access", 2, true},
	{"system.posix_acl_default", 3, true},
	{"user.", 1, false},
	{"trusted.", 4, false},
	{"security.", 6, false},
}

// xattr is an extended attribute as it is stored.
type xattr struct {
	prefix uint8
	name   string // without its prefix
	value  []byte
}

// size is what it takes, entry and value.
func (x xattr) size() int { return xattrHead + align4(len(x.name)) + align4(len(x.value)) }

func align4(n int) int { return (n + 3) &^ 3 }

// checkXattrs says whether attributes can be stored.
func checkXattrs(xattrs map[string][]byte) error {
	if len(xattrs) == 0 {
		return nil
	}
	stored, err := storedXattrs(xattrs)
	if err != nil {
		return err
	}
	_, outside := splitXattrs(stored)
	size := xattrTerminator
	for _, x := range outside {
		size += x.size()
	}
	if size > xattrBlockRoom {
		return fmt.Errorf("%w: all together take more than fits in a block", ErrXattr)
	}
	return nil
}

// storedXattrs gives attributes as they are stored, in the order in which a
// block has them.
func storedXattrs(xattrs map[string][]byte) ([]xattr, error) {
	stored := make([]xattr, 0, len(xattrs))
	for name, value := range xattrs {
		x, err := storedXattr(name, value)
		if err != nil {
			return nil, err
		}
		stored = append(stored, x)
	}
	slices.SortFunc(stored, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(len(a.name), len(b.name)), strings.Compare(a.name, b.name))
	})
	return stored, nil
}

// mustStore is storedXattrs of what checkXattrs has let in.
func mustStore(xattrs map[string][]byte) []xattr {
	stored, err := storedXattrs(xattrs)
	if err != nil {
		panic(err)
	}
	return stored
}

func storedXattr(name string, value []byte) (xattr, error) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.text)
		if !ok || p.whole != (rest == "") {
			continue
		}
		if len(name) > maxName || strings.ContainsRune(rest, 0) {
			break
		}
		if p.whole {
			acl, err := storedACL(value)
			if err != nil {
				return xattr{}, fmt.Errorf("%w %s: %v", ErrXattr, name, err)
			}
			value = acl
		}
		return xattr{p.number, rest, value}, nil
	}
	return xattr{}, fmt.Errorf("%w %.40q: no such kind", ErrXattr, name)
}

// Access control lists are stored more tightly (fs/ext4/acl.h) than programs
// see them (include/uapi/linux/posix_acl_xattr.h).
const (
	aclVersion       = 2 // of what programs see
	aclStoredVersion = 1
	aclEntry         = 8

	aclUser  = 2
	aclGroup = 8
)

func storedACL(value []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(value) < 4 || (len(value)-4)%aclEntry != 0 || le.Uint32(value) != aclVersion {
		return nil, fmt.Errorf("%d bytes are no access control list", len(value))
	}
	stored := word(aclStoredVersion)
	for entry := range slices.Chunk(value[4:], aclEntry) {
		switch tag := le.Uint16(entry); tag {
		case aclUser, aclGroup:
			stored = append(stored, entry...)
		case 1, 4, 0x10, 0x20: // owner, owning group, mask, others: they have no id
			stored = append(stored, entry[:4]...)
		default:
			return nil, fmt.Errorf("an access control list has an entry of kind %#x", tag)
		}
	}
	return stored, nil
}

// splitXattrs says which attributes fit behind the inode's fields and which
// are for the block.
func splitXattrs(stored []xattr) (inside, outside []xattr) {
	room := xattrInodeRoom - xattrTerminator
	for _, x := range stored {
		if x.size() <= room {
			room -= x.size()
			inside = append(inside, x)
		} else {
			outside = append(outside, x)
		}
	}
	return inside, outside
}

// putXattrs lays attributes out in area: entries from the byte at on, values
// from the end. Their places are counted from the byte base on. It gives the
// hash of all.
func putXattrs(area []byte, at, base int, xattrs []xattr) (hash uint32) {
	le := binary.LittleEndian
	end := len(area)
	for _, x := range xattrs {
		entry := area[at:]
		entry[0], entry[1] = uint8(len(x.name)), x.prefix
		if len(x.value) > 0 {
			end -= align4(len(x.value))
			le.PutUint16(entry[2:], uint16(end-base))
			copy(area[end:], x.value)
		}
		le.PutUint32(entry[8:], uint32(len(x.value)))
		le.PutUint32(entry[12:], x.hash())
		copy(entry[xattrHead:], x.name)
		at += xattrHead + align4(len(x.name))
		hash = hash<<16 ^ hash>>16 ^ x.hash()
	}
	return hash
}

// hash is the hash of an entry (fs/ext4/xattr.c).
func (x xattr) hash() uint32 {
	hash := uint32(0)
	for i := range len(x.name) {
		hash = hash<<5 ^ hash>>27 ^ uint32(x.name[i])
	}
	value := make([]byte, align4(len(x.value)))
	copy(value, x.value)
	for ; len(value) > 0; value = value[4:] {
		hash = hash<<16 ^ hash>>16 ^ binary.LittleEndian.Uint32(value)
	}
	return hash
}

// xattrBlock encodes the block of a file's attributes that lies at the block at.
func xattrBlock(xattrs []xattr, at uint64, seed uint32) []byte {
	le := binary.LittleEndian
	block := make([]byte, blockSize)
	le.PutUint32(block[0:], xattrMagic)
	le.PutUint32(block[4:], 1) // one inode uses it
	le.PutUint32(block[8:], 1) // it is one block
	le.PutUint32(block[12:], putXattrs(block, xattrBlockHead, 0, xattrs))
	le.PutUint32(block[16:], checksum(seed, le.AppendUint64(nil, at), block))
	return block
}
