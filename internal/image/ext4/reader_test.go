package ext4

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"time"

	"pgregory.net/rapid"
)

// found is a name in a filesystem, as read back.
type found struct {
	Attr
	Inode   uint32
	Links   uint16
	Size    int64
	Target  string
	Content []byte
}

// reader reads filesystems that need not be trusted: the tests' own way back,
// written from the format's documentation. It checks no checksums; e2fsck does.
type reader struct {
	t     rapid.TB
	file  *os.File
	super []byte
}

// readBack gives everything that is in a filesystem, by path; the root is "".
func readBack(t rapid.TB, path string) map[string]found {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	r := &reader{t: t, file: file, super: make([]byte, 1024)}
	r.at(r.super, 1024)
	all := map[string]found{}
	r.walk("", 2, all)
	return all
}

func (r *reader) at(data []byte, offset int64) {
	if _, err := r.file.ReadAt(data, offset); err != nil && err != io.EOF {
		r.t.Fatal(err)
	}
}

func (r *reader) block(number uint64) []byte {
	data := make([]byte, 4096)
	r.at(data, int64(number)*4096)
	return data
}

func (r *reader) walk(path string, number uint32, all map[string]found) {
	f, raw := r.inode(number)
	switch f.Mode & 0o170000 {
	case 0o100000:
		f.Content = r.content(raw, f.Size)
	case 0o120000:
		f.Target = string(raw[40 : 40+min(f.Size, 60)])
		if f.Size > 59 {
			f.Target = string(r.content(raw, f.Size))
		}
	case 0o040000:
		for name, child := range r.names(r.content(raw, f.Size), raw[32+1]&0x10 != 0) {
			r.walk(path+"/"+name, child, all)
		}
	}
	all[path] = f
}

func (r *reader) inode(number uint32) (found, []byte) {
	le := binary.LittleEndian
	perGroup := le.Uint32(r.super[0x28:])
	group, index := (number-1)/perGroup, (number-1)%perGroup
	descriptor := make([]byte, 64)
	r.at(descriptor, 4096+int64(group)*64)
	table := uint64(le.Uint32(descriptor[8:])) | uint64(le.Uint32(descriptor[0x28:]))<<32
	raw := make([]byte, 256)
	r.at(raw, int64(table)*4096+int64(index)*256)
	f := found{Inode: number, Links: le.Uint16(raw[0x1a:])}
	f.Mode = uint32(le.Uint16(raw))
	f.UID = uint32(le.Uint16(raw[2:])) | uint32(le.Uint16(raw[0x78:]))<<16
	f.GID = uint32(le.Uint16(raw[0x18:])) | uint32(le.Uint16(raw[0x7a:]))<<16
	f.Size = int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[0x6c:]))<<32
	extra := le.Uint32(raw[0x88:])
	f.Mtime = time.Unix(int64(int32(le.Uint32(raw[0x10:])))+int64(extra&3)<<32, int64(extra>>2))
	if kind := f.Mode & 0o170000; kind == 0o020000 || kind == 0o060000 {
		old, wide := le.Uint32(raw[40:]), le.Uint32(raw[44:])
		f.Major, f.Minor = old>>8&0xff, old&0xff
		if old == 0 {
			f.Major, f.Minor = wide>>8&0xfff, wide&0xff|wide>>12&0xfff00
		}
	}
	if le.Uint32(raw[160:]) == 0xea020000 {
		r.xattrs(&f, raw[164:], raw[164:])
	}
	if acl := uint64(le.Uint32(raw[0x68:])) | uint64(le.Uint16(raw[0x76:]))<<32; acl != 0 {
		block := r.block(acl)
		r.xattrs(&f, block[32:], block)
	}
	return f, raw
}

func (r *reader) xattrs(f *found, entries, values []byte) {
	le := binary.LittleEndian
	prefix := map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
	if f.Xattrs == nil {
		f.Xattrs = map[string][]byte{}
	}
	for le.Uint32(entries) != 0 {
		length := int(entries[0])
		offset, size := int(le.Uint16(entries[2:])), int(le.Uint32(entries[8:]))
		name := prefix[entries[1]] + string(entries[16:16+length])
		value := bytes.Clone(values[offset : offset+size])
		if name == "system.posix_acl_access" {
			value = r.acl(value)
		}
		f.Xattrs[name] = value
		entries = entries[16+(length+3)&^3:]
	}
}

// acl gives an access control list as programs see it.
func (r *reader) acl(stored []byte) []byte {
	le := binary.LittleEndian
	seen := le.AppendUint32(nil, 2)
	for stored = stored[4:]; len(stored) > 0; {
		size := 4
		if tag := le.Uint16(stored); tag == 2 || tag == 8 {
			size = 8
		}
		seen = append(seen, stored[:size]...)
		if size == 4 {
			seen = append(seen, 0xff, 0xff, 0xff, 0xff)
		}
		stored = stored[size:]
	}
	return seen
}

func (r *reader) content(raw []byte, size int64) []byte {
	data := make([]byte, (size+4095)/4096*4096)
	if size > 0 {
		r.extents(raw[40:100], data)
	}
	return data[:size]
}

func (r *reader) extents(node, data []byte) {
	le := binary.LittleEndian
	if le.Uint16(node) != 0xf30a {
		r.t.Fatalf("no extents: % x", node[:12])
	}
	for i := range int(le.Uint16(node[2:])) {
		e := node[12+12*i:]
		if le.Uint16(node[6:]) > 0 {
			r.extents(r.block(uint64(le.Uint32(e[4:]))|uint64(le.Uint16(e[8:]))<<32), data)
			continue
		}
		logical, count := int(le.Uint32(e)), int(le.Uint16(e[4:]))
		physical := int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32
		r.at(data[logical*4096:(logical+count)*4096], physical*4096)
	}
}

// names reads a directory from end to end, as who ignores its index does.
func (r *reader) names(data []byte, indexed bool) map[string]uint32 {
	le := binary.LittleEndian
	all := map[string]uint32{}
	for at := 0; at < len(data); {
		e := data[at:]
		number, size, length := le.Uint32(e), int(le.Uint16(e[4:])), int(e[6])
		if size < 8 || at%4096+size > 4096 {
			r.t.Fatalf("a directory entry at %d has %d bytes", at, size)
		}
		if name := string(e[8 : 8+length]); number != 0 && name != "." && name != ".." {
			if _, twice := all[name]; twice {
				r.t.Fatalf("%q is there twice", name)
			}
			all[name] = number
		}
		at += size
	}
	if indexed != (len(data) > 4096) {
		r.t.Fatalf("a directory of %d bytes, index: %v", len(data), indexed)
	}
	return all
}
