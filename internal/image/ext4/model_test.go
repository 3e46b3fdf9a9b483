package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// modelled is an inode of the model.
type modelled struct {
	attr    Attr
	target  string
	content []byte
}

func (m *modelled) directory() bool { return m.attr.Mode&modeType == modeDirectory }

// model is what a filesystem must have after calls: every path, and what it is.
type model map[string]*modelled

// reach makes the directories on the way to path, or says what is in the way.
func (m model) reach(path string, make bool) error {
	names := strings.Split(path, "/")
	for i := 1; i < len(names); i++ {
		dir := strings.Join(names[:i], "/")
		switch at := m[dir]; {
		case at == nil && !make:
			return fs.ErrNotExist
		case at == nil:
			m[dir] = &modelled{attr: Attr{Mode: modeDirectory | 0o755, Mtime: testTime}}
		case at.attr.Mode&modeType == modeSymlink:
			return &SymlinkError{dir, at.target}
		case !at.directory():
			return ErrNotDirectory
		}
	}
	return nil
}

func (m model) removeChildren(path string) {
	for p := range m {
		if strings.HasPrefix(p, path+"/") {
			delete(m, p)
		}
	}
}

func (m model) put(path string, n *modelled) error {
	if err := m.reach(path, true); err != nil {
		return err
	}
	if old := m[path]; old != nil && old.directory() && n.directory() {
		old.attr = n.attr
		return nil
	}
	m.removeChildren(path)
	m[path] = n
	return nil
}

func (m model) link(from, to string) error {
	if err := m.reach(from, false); err != nil {
		return err
	}
	old := m[from]
	switch {
	case old == nil:
		return fs.ErrNotExist
	case old.directory():
		return ErrIsDirectory
	}
	if err := m.reach(to, true); err != nil {
		return err
	}
	if m[to] != old {
		m.removeChildren(to)
		m[to] = old
	}
	return nil
}

func (m model) remove(path string) error {
	if err := m.reach(path, false); err != nil {
		return err
	}
	if m[path] == nil {
		return fs.ErrNotExist
	}
	m.removeChildren(path)
	delete(m, path)
	return nil
}

func (m model) empty(path string) error {
	if err := m.reach(path, false); err != nil {
		return err
	}
	switch at := m[path]; {
	case at == nil:
		return fs.ErrNotExist
	case !at.directory():
		return ErrNotDirectory
	}
	m.removeChildren(path)
	return nil
}

// drawing makes the arguments of calls.
type drawing struct{ *rapid.T }

func (d drawing) path() string {
	name := rapid.SampledFrom([]string{"a", "b", "c", strings.Repeat("n", maxName), "ä b"})
	return strings.Join(rapid.SliceOfN(name, 1, 3).Draw(d.T, "path"), "/")
}

func (d drawing) attr(kind uint32) Attr {
	a := Attr{
		Mode:  kind | rapid.Uint32Range(0, 0o7777).Draw(d.T, "mode"),
		UID:   rapid.Uint32().Draw(d.T, "uid"),
		GID:   rapid.Uint32().Draw(d.T, "gid"),
		Mtime: time.Unix(rapid.Int64Range(minSeconds, maxSeconds).Draw(d.T, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(d.T, "nanoseconds")),
	}
	if kind == modeSymlink {
		a.Mode = kind | 0o777
	}
	if kind == modeChar || kind == modeBlock {
		a.Major, a.Minor = rapid.Uint32Range(1, maxMajor).Draw(d.T, "major"), rapid.Uint32Range(0, maxMinor).Draw(d.T, "minor")
	}
	for range rapid.IntRange(0, 3).Draw(d.T, "xattrs") {
		if a.Xattrs == nil {
			a.Xattrs = map[string][]byte{}
		}
		name := rapid.SampledFrom([]string{"user.a", "user.long-name", "trusted.t", "security.capability", "system.posix_acl_access"}).Draw(d.T, "name")
		value := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(d.T, "value")
		if name == "system.posix_acl_access" {
			value = accessList()
		}
		a.Xattrs[name] = value
	}
	return a
}

// accessList gives user 1000 the right to read, as getxattr shows it.
func accessList() []byte {
	le := binary.LittleEndian
	list := le.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 6, ^uint32(0)}, {2, 4, 1000}, {4, 4, ^uint32(0)}, {0x10, 4, ^uint32(0)}, {0x20, 4, ^uint32(0)}} {
		list = le.AppendUint16(list, e.tag)
		list = le.AppendUint16(list, e.perm)
		list = le.AppendUint32(list, e.id)
	}
	return list
}

// content is blocks of which some are zeros, and a rest.
func (d drawing) content() []byte {
	pattern := rapid.SliceOfN(rapid.Bool(), 0, 20).Draw(d.T, "blocks that are not zeros")
	repeat := rapid.SampledFrom([]int{1, 1, 1, 1, 30}).Draw(d.T, "times")
	rest := rapid.IntRange(0, blockSize-1).Draw(d.T, "rest")
	data := make([]byte, len(pattern)*repeat*blockSize+rest)
	source := rand.NewChaCha8([32]byte{byte(len(pattern)), byte(rest)})
	for i := range len(pattern) * repeat {
		if pattern[i%len(pattern)] {
			source.Read(data[i*blockSize : (i+1)*blockSize])
		}
	}
	source.Read(data[len(data)-rest:])
	return data
}

// call makes a call of its choice on both and compares what they say.
func (d drawing) call(w *Writer, m model) {
	path := d.path()
	var got, want error
	switch name := rapid.SampledFrom([]string{"Mkdir", "File", "File", "File", "Symlink", "Node", "Link", "Remove", "RemoveChildren"}).Draw(d.T, "call"); name {
	case "Mkdir":
		a := d.attr(modeDirectory)
		got, want = w.Mkdir(path, a), m.put(path, &modelled{attr: a})
	case "File":
		a, content := d.attr(modeRegular), d.content()
		got, want = w.File(path, a, bytes.NewReader(content), int64(len(content))), m.put(path, &modelled{attr: a, content: content})
	case "Symlink":
		a, target := d.attr(modeSymlink), strings.Repeat("t", rapid.SampledFrom([]int{1, 59, 60, 4095}).Draw(d.T, "target"))
		got, want = w.Symlink(path, target, a), m.put(path, &modelled{attr: a, target: target})
	case "Node":
		a := d.attr(rapid.SampledFrom([]uint32{modeChar, modeBlock, modeFIFO, modeSocket}).Draw(d.T, "kind"))
		got, want = w.Node(path, a), m.put(path, &modelled{attr: a})
	case "Link":
		to := d.path()
		got, want = w.Link(path, to), m.link(path, to)
	case "Remove":
		got, want = w.Remove(path), m.remove(path)
	case "RemoveChildren":
		got, want = w.RemoveChildren(path), m.empty(path)
	}
	d.compare(path, got, want)
	d.lookup(w, m, path)
}

func (d drawing) compare(path string, got, want error) {
	var gotLink, wantLink *SymlinkError
	if errors.As(want, &wantLink) {
		if !errors.As(got, &gotLink) || *gotLink != *wantLink {
			d.Fatalf("%s: got %v, want %v", path, got, want)
		}
		return
	}
	if !errors.Is(got, want) {
		d.Fatalf("%s: got %v, want %v", path, got, want)
	}
}

func (d drawing) lookup(w *Writer, m model, path string) {
	a, there := w.Lookup(path)
	at := m[path]
	if there != (at != nil) {
		d.Fatalf("%s: there: %v", path, there)
	}
	if there {
		if diff := cmp.Diff(at.attr, a, cmpopts.EquateEmpty()); diff != "" {
			d.Fatalf("%s: %s", path, diff)
		}
	}
}

// agrees compares what is in the filesystem with the model.
func (d drawing) agrees(m model, all map[string]found) {
	delete(all, "")
	delete(all, "/lost+found")
	inodes := map[*modelled]uint32{}
	links := map[*modelled]uint16{}
	for _, n := range m {
		links[n]++
	}
	for path, n := range m {
		f, there := all["/"+path]
		if !there {
			d.Fatalf("%s is not in it", path)
		}
		delete(all, "/"+path)
		if diff := cmp.Diff(n.attr, f.Attr, cmpopts.EquateEmpty()); diff != "" {
			d.Fatalf("%s: %s", path, diff)
		}
		if f.Target != n.target || !bytes.Equal(f.Content, n.content) {
			d.Fatalf("%s: its content is another", path)
		}
		if number, met := inodes[n]; met && number != f.Inode {
			d.Fatalf("%s: inode %d, by another name it is %d", path, f.Inode, number)
		}
		inodes[n] = f.Inode
		if !n.directory() && f.Links != links[n] {
			d.Fatalf("%s: %d links, want %d", path, f.Links, links[n])
		}
	}
	if len(all) > 0 {
		d.Fatalf("there is more in it: %v", all)
	}
}

// calls makes a filesystem by any calls, has e2fsck look at it, and reads it
// back.
func calls(t *rapid.T) {
	filesystem(t, func(path string) { e2fs(t, "e2fsck", "-fn", path) })
}

// filesystem makes a filesystem by any calls, has it looked at, and reads it back.
func filesystem(t *rapid.T, look func(path string)) {
	dir, err := os.MkdirTemp("", "ext4")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "fs")
	w, err := Create(path, WriterOptions{Time: testTime})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	m, d := model{}, drawing{t}
	for range rapid.IntRange(1, 60).Draw(t, "calls") {
		d.call(w, m)
	}
	entries, content := w.entries, w.blocks.content
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if entries != int64(len(m)) || content != m.blocks() {
		t.Fatalf("%d entries and %d blocks were counted, %d and %d there are", entries, content, len(m), m.blocks())
	}
	look(path)
	d.agrees(m, readBack(t, path))
}

// blocks counts the blocks of content that are not zeros.
func (m model) blocks() (count uint64) {
	met := map[*modelled]bool{}
	for _, n := range m {
		if met[n] {
			continue
		}
		met[n] = true
		for rest := n.content; len(rest) > 0; rest = rest[min(blockSize, len(rest)):] {
			if len(bytes.Trim(rest[:min(blockSize, len(rest))], "\x00")) > 0 {
				count++
			}
		}
	}
	return count
}

func TestWriterCalls(t *testing.T) { rapid.Check(t, calls) }

// FuzzWriterCalls reads each filesystem back. A process for each would be most
// of its time, so e2fsck looks at one in many; which, the input says.
func FuzzWriterCalls(f *testing.F) {
	readBack := rapid.MakeFuzz(func(t *rapid.T) { filesystem(t, func(string) {}) })
	checked := rapid.MakeFuzz(calls)
	f.Fuzz(func(t *testing.T, input []byte) {
		if crc32.ChecksumIEEE(input)%100 == 0 {
			checked(t, input)
		} else {
			readBack(t, input)
		}
	})
}
