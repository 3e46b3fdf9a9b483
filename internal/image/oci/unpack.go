package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/api"
)

// The names by which a layer says what it takes away from those below it.
const (
	whiteout    = ".wh."
	opaque      = ".wh..wh..opq"
	xattrPrefix = "SCHILY.xattr."
)

// The types of files in st_mode.
const (
	modeFIFO      = 0o010000
	modeChar      = 0o020000
	modeDir       = 0o040000
	modeBlock     = 0o060000
	modeRegular   = 0o100000
	modeSymlink   = 0o120000
	permissions   = 0o007777
	defaultDir    = modeDir | 0o755
	maxMajor      = 1<<12 - 1
	maxMinor      = 1<<20 - 1
	maxLinkTarget = maxPath
)

// dropped are the attributes that belong to the host an image was made on.
// umoci drops the same.
var dropped = map[string]bool{"security.selinux": true}

// unpacker lays layers down, bottom-up.
type unpacker struct {
	fs      Filesystem
	tree    *tree
	stream  budget // of the layers as tar archives
	content budget // of the files in them: a sparse one is larger than its archive
	layer   int32
	entries int64
}

func newUnpacker(fs Filesystem, limit int64) *unpacker {
	return &unpacker{fs: fs, tree: newTree(), stream: budget{limit, limit}, content: budget{limit, limit}}
}

// budget is how many bytes may still come.
type budget struct{ left, limit int64 }

// take uses up n bytes.
func (b *budget) take(n int64) error {
	if n < 0 || n > b.left {
		return &imageError{&api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("the image unpacks to more than %d MiB", b.limit>>20),
			Hint:    "if you trust it, allow more with --max-size",
		}}
	}
	b.left -= n
	return nil
}

// bounded counts the bytes of a decompressed layer.
type bounded struct {
	r      io.Reader
	budget *budget
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if over := b.budget.take(int64(n)); over != nil {
		return 0, over
	}
	return n, err
}

// apply lays one layer, a tar stream, over those before it.
func (u *unpacker) apply(layer io.Reader) error {
	stream := &bounded{layer, &u.stream}
	for entries := tar.NewReader(stream); ; {
		h, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read a layer: %w", tarError(err))
		}
		if err := u.count(); err != nil {
			return err
		}
		if err := u.entry(h, entries); err != nil {
			return fmt.Errorf("cannot unpack %.200q: %w", h.Name, tarError(err))
		}
	}
	// What follows the archive's end belongs to the layer's digest.
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return fmt.Errorf("cannot read a layer: %w", tarError(err))
	}
	u.layer++
	return nil
}

// tarError tells a broken archive from a stream that failed.
func tarError(err error) error {
	switch {
	case errors.Is(err, tar.ErrHeader), errors.Is(err, tar.ErrFieldTooLong):
		return badImage("the layer is no tar archive, or a broken one: %v", err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badImage("the layer is cut off")
	}
	return err
}

// count bounds the entries: each takes memory here, and an inode there.
func (u *unpacker) count() error {
	u.entries++
	if most := EntryLimit(u.content.limit); u.entries > most {
		return &imageError{&api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("the image has more than %d files", most),
			Hint:    "if you trust it, allow more with --max-size: a file for each 16 KiB",
		}}
	}
	return nil
}

// entry lays one entry down.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	parts, err := clean(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		return u.rootEntry(h)
	}
	name := parts[len(parts)-1]
	at, err := u.tree.follow(parts[:len(parts)-1])
	if err != nil {
		return err
	}
	if strings.HasPrefix(name, whiteout) {
		return u.takeAway(at, name)
	}
	if len(at.join(name)) > maxPath {
		return badImage("its path has more than %d bytes", maxPath)
	}
	attr, err := attrOf(h)
	if err != nil {
		return err
	}
	if err := u.makeParents(at, h.ModTime); err != nil {
		return err
	}
	if err := u.makeRoom(at, name, h.Typeflag == tar.TypeDir); err != nil {
		return err
	}
	made, err := u.make(h, at.join(name), attr, content)
	if err != nil {
		return err
	}
	u.record(at, name, made)
	return nil
}

// rootEntry sets the attributes of the root directory.
func (u *unpacker) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return badImage("the root is no directory in it")
	}
	attr, err := attrOf(h)
	if err != nil {
		return err
	}
	u.tree.root.layer = u.layer
	return u.fs.Mkdir("", attr)
}

// makeParents makes what of a place is not there. An archive need not hold an
// entry for every directory.
func (u *unpacker) makeParents(at place, mtime time.Time) error {
	for i, s := range at {
		if s.node != nil {
			continue
		}
		if err := u.fs.Mkdir(at[:i+1].path(), Attr{Mode: defaultDir, Mtime: mtime}); err != nil {
			return err
		}
		at[i].node = &node{kind: directory, layer: u.layer}
		u.tree.dir(at[:i]).put(s.name, at[i].node)
	}
	return nil
}

// makeRoom removes what has the name already. Only a directory over a
// directory keeps what is in it.
func (u *unpacker) makeRoom(at place, name string, isDir bool) error {
	old := u.tree.child(at, name)
	if old == nil || isDir && old.kind == directory {
		return nil
	}
	return u.remove(at, name)
}

func (u *unpacker) remove(at place, name string) error {
	if err := u.fs.Remove(at.join(name)); err != nil {
		return err
	}
	delete(u.tree.dir(at).children, name)
	return nil
}

// record notes what was made. A directory that was there keeps its node.
func (u *unpacker) record(at place, name string, made *node) {
	u.tree.touch(at, u.layer)
	made.layer = u.layer
	dir := u.tree.dir(at)
	if old := dir.children[name]; old != nil && old.kind == directory && made.kind == directory {
		old.layer = u.layer
		return
	}
	dir.put(name, made)
}

// make makes what the header says at path, where nothing is.
func (u *unpacker) make(h *tar.Header, path string, a Attr, content io.Reader) (*node, error) {
	switch h.Typeflag {
	case tar.TypeDir:
		return &node{kind: directory}, u.fs.Mkdir(path, a)
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := u.content.take(h.Size); err != nil {
			return nil, err
		}
		return &node{kind: other}, u.fs.File(path, a, content, h.Size)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > maxLinkTarget {
			return nil, badImage("its target has %d bytes; Linux allows 1 to %d", len(h.Linkname), maxLinkTarget)
		}
		return &node{kind: symlink, target: h.Linkname}, u.fs.Symlink(path, h.Linkname, a)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return &node{kind: other}, u.fs.Node(path, a)
	case tar.TypeLink:
		return u.link(h.Linkname, path)
	}
	return nil, badImage("it is of a type that banger does not know: %q", h.Typeflag)
}

// link makes a hard link. Its target is a name in the image, followed like all
// names: through links on the way, not through one at its end.
func (u *unpacker) link(target, path string) (*node, error) {
	parts, err := clean(target)
	if err != nil {
		return nil, fmt.Errorf("its hard link: %w", err)
	}
	if len(parts) == 0 {
		return nil, badImage("it is a hard link to the root")
	}
	name := parts[len(parts)-1]
	at, err := u.tree.follow(parts[:len(parts)-1])
	if err != nil {
		return nil, fmt.Errorf("its hard link: %w", err)
	}
	old := u.tree.child(at, name)
	switch {
	case old == nil:
		return nil, badImage("it is a hard link to %.200q, which is not there", target)
	case old.kind == directory:
		return nil, badImage("it is a hard link to %.200q, which is a directory", target)
	}
	return &node{kind: old.kind, target: old.target}, u.fs.Link(at.join(name), path)
}

// takeAway does what a whiteout says. It hides only what the layers below
// have; what its own layer has at the same place stays, whichever comes first.
func (u *unpacker) takeAway(at place, name string) error {
	if name == opaque {
		if dir := u.tree.dir(at); dir != nil {
			return u.prune(at, dir)
		}
		return nil
	}
	name = strings.TrimPrefix(name, whiteout)
	if name == "" || name == "." || name == ".." {
		return badImage("it is a whiteout of nothing")
	}
	gone := u.tree.child(at, name)
	switch {
	case gone == nil:
		return nil
	case gone.layer != u.layer:
		return u.remove(at, name)
	case gone.kind == directory:
		return u.prune(append(at[:len(at):len(at)], step{name, gone}), gone)
	}
	return nil
}

// prune removes what of a directory is from lower layers only.
func (u *unpacker) prune(at place, dir *node) error {
	for _, name := range slices.Sorted(maps.Keys(dir.children)) {
		child := dir.children[name]
		if child.layer != u.layer {
			if err := u.remove(at, name); err != nil {
				return err
			}
			continue
		}
		if child.kind == directory {
			if err := u.prune(append(at[:len(at):len(at)], step{name, child}), child); err != nil {
				return err
			}
		}
	}
	return nil
}

// attrOf takes an entry's attributes from its header.
func attrOf(h *tar.Header) (Attr, error) {
	if h.Uid < 0 || h.Uid > math.MaxUint32-1 || h.Gid < 0 || h.Gid > math.MaxUint32-1 {
		return Attr{}, badImage("its owner %d:%d is none that Linux knows", h.Uid, h.Gid)
	}
	if h.Size < 0 {
		return Attr{}, badImage("its size is negative")
	}
	a := Attr{Mode: uint32(h.Mode)&permissions | fileType(h.Typeflag), UID: uint32(h.Uid), GID: uint32(h.Gid), Mtime: h.ModTime}
	if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
		if h.Devmajor < 0 || h.Devmajor > maxMajor || h.Devminor < 0 || h.Devminor > maxMinor {
			return Attr{}, badImage("its device number %d:%d is none that Linux knows", h.Devmajor, h.Devminor)
		}
		a.Major, a.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || dropped[name] {
			continue
		}
		if a.Xattrs == nil {
			a.Xattrs = map[string][]byte{}
		}
		a.Xattrs[name] = []byte(value)
	}
	return a, nil
}

func fileType(flag byte) uint32 {
	switch flag {
	case tar.TypeDir:
		return modeDir
	case tar.TypeSymlink:
		return modeSymlink
	case tar.TypeChar:
		return modeChar
	case tar.TypeBlock:
		return modeBlock
	case tar.TypeFifo:
		return modeFIFO
	}
	return modeRegular
}
