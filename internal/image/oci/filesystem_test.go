package oci

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"
)

// memory is a filesystem in memory that holds to the rules of [Filesystem]:
// whoever breaks one gets an error.
type memory struct {
	names map[string]*inode // by path; "" is the root
}

type inode struct {
	attr   Attr
	size   int64
	sum    string // of the content
	target string
}

func newMemory() *memory {
	return &memory{names: map[string]*inode{"": {attr: Attr{Mode: modeDir | 0o755}}}}
}

func isDir(n *inode) bool { return n != nil && n.attr.Mode&0o170000 == modeDir }

// free says why nothing can be made at name.
func (m *memory) free(name string) error {
	parent := path.Dir("/" + name)[1:]
	switch {
	case path.Clean("/" + name)[1:] != name || name == "":
		return fmt.Errorf("%q is no path", name)
	case !isDir(m.names[parent]):
		return fmt.Errorf("the parent of %q is no directory", name)
	case m.names[name] != nil:
		return fmt.Errorf("%q is there already", name)
	}
	return nil
}

func (m *memory) put(name string, n *inode) error {
	if err := m.free(name); err != nil {
		return err
	}
	m.names[name] = n
	return nil
}

func (m *memory) Mkdir(name string, a Attr) error {
	if old := m.names[name]; isDir(old) {
		old.attr = a
		return nil
	}
	return m.put(name, &inode{attr: a})
}

func (m *memory) File(name string, a Attr, content io.Reader, size int64) error {
	if err := m.free(name); err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(sum, content)
	if err != nil {
		return err
	}
	if n != size {
		return io.ErrUnexpectedEOF
	}
	return m.put(name, &inode{attr: a, size: size, sum: hex.EncodeToString(sum.Sum(nil)[:4])})
}

func (m *memory) Symlink(name, target string, a Attr) error {
	return m.put(name, &inode{attr: a, target: target})
}

func (m *memory) Node(name string, a Attr) error { return m.put(name, &inode{attr: a}) }

func (m *memory) Link(old, name string) error {
	n := m.names[old]
	if n == nil || isDir(n) {
		return fmt.Errorf("no hard link to %q", old)
	}
	return m.put(name, n)
}

func (m *memory) Remove(name string) error {
	if m.names[name] == nil || name == "" {
		return fmt.Errorf("%q is not there", name)
	}
	maps.DeleteFunc(m.names, func(other string, _ *inode) bool { return other == name || strings.HasPrefix(other, name+"/") })
	return nil
}

// paths are all names, sorted.
func (m *memory) paths() string {
	return strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(m.names)), " "))
}

var when = time.Unix(1_700_000_000, 0)

// Entries of layers, in short.
func dir(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755}
}
func file(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
func link(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}
}
func hard(name, target string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o644}
}

// layer packs entries. The content of a file is its name and the layer's
// number, unless its size is set.
func layer(t testing.TB, number int, entries ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range entries {
		content := []byte{}
		if h.Typeflag == tar.TypeReg {
			content = fmt.Appendf(nil, "%s of layer %d", h.Name, number)
			h.Size = int64(len(content))
		}
		if h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime, h.Format = cmp.Or(h.ModTime, when), tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// unpacked applies layers.
func unpacked(t testing.TB, limit int64, layers ...[]byte) (*memory, error) {
	t.Helper()
	m := newMemory()
	u := newUnpacker(m, limit)
	for _, l := range layers {
		if err := u.apply(bytes.NewReader(l)); err != nil {
			return m, err
		}
	}
	return m, nil
}
