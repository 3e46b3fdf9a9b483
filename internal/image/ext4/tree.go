package ext4

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// What a path may be at most, as for the kernel.
const (
	maxName = 255
	maxPath = 4095
)

// Errors that a caller of [Writer] acts on. All are wrapped with the path that
// they are about.
var (
	// ErrName says that a path has a name that no directory can hold: "..", or
	// one with a NUL byte.
	ErrName = errors.New("not a name for a file")
	// ErrNameTooLong says that a name is longer than 255 bytes, or a path or
	// a symlink's target longer than 4095.
	ErrNameTooLong = errors.New("name too long")
	// ErrNotDirectory says that a path goes through something that is neither a
	// directory nor a symlink.
	ErrNotDirectory = errors.New("not a directory")
	// ErrIsDirectory says that a directory can't be what was asked for.
	ErrIsDirectory = errors.New("is a directory")
	// ErrTooManyLinks says that a file would have more than 65000 names.
	ErrTooManyLinks = errors.New("too many hard links")
	// ErrXattr says that an extended attribute can't be stored: its name is of
	// no kind that ext4 has, its value is malformed, or all of a file's are more
	// than fit in its inode and one block.
	ErrXattr = errors.New("cannot store the extended attribute")
	// ErrAttr says that attributes make no sense: a node that is no node.
	ErrAttr = errors.New("not a kind of file")
)

// SymlinkError says that a path goes through a symlink, which a Writer never
// follows.
type SymlinkError struct {
	Path   string // of the symlink, from the root, without a slash in front
	Target string // what it points to
}

func (e *SymlinkError) Error() string {
	return fmt.Sprintf("%s is a symbolic link to %q", e.Path, e.Target)
}

// LimitError says that a filesystem would become larger than it may.
type LimitError struct {
	What  string // "bytes of content", "entries", "bytes of metadata"
	Limit int64
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the filesystem would have more than %d %s", e.Limit, e.What)
}

// Attr is what an inode says about itself.
type Attr struct {
	Mode         uint32 // st_mode: type and permissions
	UID, GID     uint32
	Mtime        time.Time         // to the nanosecond, 1901 to 2446
	Major, Minor uint32            // of a device
	Xattrs       map[string][]byte // by their whole names, e.g. security.capability; as getxattr gives them
}

// The types of files in st_mode.
const (
	modeType      = 0o170000
	modeFIFO      = 0o010000
	modeChar      = 0o020000
	modeDirectory = 0o040000
	modeBlock     = 0o060000
	modeRegular   = 0o100000
	modeSymlink   = 0o120000
	modeSocket    = 0o140000
)

// node is an inode. There may be a million of them, so what few have is in
// more.
type node struct {
	mode, uid, gid uint32
	links          uint32 // names of what is no directory
	number         uint32 // given when the filesystem is finished
	nanos          uint32
	seconds        int64
	size           int64 // bytes
	first          extent
	more           *rare            // nil: nothing rare
	children       map[string]*node // of a directory
}

// rare is what few inodes have.
type rare struct {
	extents      []extent // after the first
	xattrs       map[string][]byte
	target       string // of a symlink
	major, minor uint32

	// What [Writer.Close] finds out.
	root       *[inodeBlocks]byte // of the extent tree, when it has blocks of its own
	rootBlocks uint64             // blocks of the extent tree
	xattrBlock uint64             // 0: none
	indexed    bool               // the directory has an index
}

func (n *node) isDirectory() bool { return n.mode&modeType == modeDirectory }

func (n *node) rare() *rare {
	if n.more == nil {
		n.more = &rare{}
	}
	return n.more
}

// extents gives where the content is, in logical order.
func (n *node) extents(yield func(extent) bool) {
	if n.first.count == 0 || !yield(n.first) || n.more == nil {
		return
	}
	for _, e := range n.more.extents {
		if !yield(e) {
			return
		}
	}
}

// place adds blocks at the end of the content.
func (n *node) place(e extent) {
	last := &n.first
	if n.more != nil && len(n.more.extents) > 0 {
		last = &n.more.extents[len(n.more.extents)-1]
	}
	switch {
	case last.count == 0:
		*last = e
	case last.logical+last.count == e.logical && last.physical+uint64(last.count) == e.physical && last.count+e.count <= maxExtent:
		last.count += e.count
	default:
		n.rare().extents = append(n.rare().extents, e)
	}
}

// What an entry costs in memory, about.
const (
	nodeCost   = 200
	rareCost   = 160
	extentCost = 32 // a growing slice is up to twice as large
)

func (n *node) cost(name string) int64 {
	cost := int64(nodeCost + len(name))
	if n.more == nil {
		return cost
	}
	cost += int64(rareCost + len(n.more.target) + extentCost*len(n.more.extents))
	for name, value := range n.more.xattrs {
		cost += int64(len(name) + len(value) + 64)
	}
	return cost
}

// set takes attributes over. They are checked before.
func (n *node) set(a Attr) {
	n.mode, n.uid, n.gid = a.Mode, a.UID, a.GID
	n.seconds, n.nanos = encodableTime(a.Mtime)
	if len(a.Xattrs) > 0 {
		n.rare().xattrs = cloned(a.Xattrs)
	} else if n.more != nil {
		n.more.xattrs = nil
	}
	if kind := a.Mode & modeType; kind == modeChar || kind == modeBlock {
		n.rare().major, n.rare().minor = a.Major, a.Minor
	}
}

func (n *node) attr() Attr {
	a := Attr{Mode: n.mode, UID: n.uid, GID: n.gid, Mtime: time.Unix(n.seconds, int64(n.nanos))}
	if n.more == nil {
		return a
	}
	a.Major, a.Minor = n.more.major, n.more.minor
	if len(n.more.xattrs) > 0 {
		a.Xattrs = cloned(n.more.xattrs)
	}
	return a
}

func cloned(xattrs map[string][]byte) map[string][]byte {
	clone := make(map[string][]byte, len(xattrs))
	for name, value := range xattrs {
		clone[name] = slices.Clone(value)
	}
	return clone
}

// place is where a name is, or would be.
type place struct {
	parent *node  // nil: the root itself
	name   string // "" for the root
	node   *node  // nil: nothing is there
}

// elements splits a path into its names.
func elements(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%.40s…: %w", path, ErrNameTooLong)
	}
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
			continue
		case name == ".." || strings.ContainsRune(name, 0):
			return nil, fmt.Errorf("%q: %w", path, ErrName)
		case len(name) > maxName:
			return nil, fmt.Errorf("%.40s…: %w", name, ErrNameTooLong)
		}
		names = append(names, name)
	}
	return names, nil
}

// find walks to where path is. The directory that it is in must be there.
func (w *Writer) find(path string) (place, error) {
	names, err := elements(path)
	if err != nil || len(names) == 0 {
		return place{node: w.root}, err
	}
	dir, missing, err := w.descend(names[:len(names)-1])
	if err != nil {
		return place{}, err
	}
	if missing > 0 {
		return place{}, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	name := names[len(names)-1]
	return place{dir, name, dir.children[name]}, nil
}

// findOrMake is find that makes the directories that are missing on the way.
func (w *Writer) findOrMake(path string) (place, error) {
	names, err := elements(path)
	if err != nil || len(names) == 0 {
		return place{node: w.root}, err
	}
	parents := names[:len(names)-1]
	dir, missing, err := w.descend(parents)
	if err != nil {
		return place{}, err
	}
	for _, name := range parents[len(parents)-missing:] {
		child := &node{children: map[string]*node{}}
		child.set(Attr{Mode: modeDirectory | 0o755, Mtime: w.time})
		if err := w.put(place{parent: dir, name: name}, child); err != nil {
			return place{}, err
		}
		dir = child
	}
	name := names[len(names)-1]
	return place{dir, name, dir.children[name]}, nil
}

// descend goes down directories as far as they are there, and says how many are
// missing.
func (w *Writer) descend(names []string) (dir *node, missing int, err error) {
	dir = w.root
	for i, name := range names {
		child := dir.children[name]
		switch {
		case child == nil:
			return dir, len(names) - i, nil
		case child.mode&modeType == modeSymlink:
			return nil, 0, &SymlinkError{strings.Join(names[:i+1], "/"), child.more.target}
		case !child.isDirectory():
			return nil, 0, fmt.Errorf("%s: %w", strings.Join(names[:i+1], "/"), ErrNotDirectory)
		}
		dir = child
	}
	return dir, 0, nil
}

// put gives n the name at p, in the place of what is there.
func (w *Writer) put(p place, n *node) error {
	cost := n.cost(p.name)
	if err := w.charge(1, cost); err != nil {
		return err
	}
	n.links++
	if p.node != nil {
		w.drop(p)
	}
	p.parent.children[p.name] = n
	return nil
}

// charge counts what is held in memory.
func (w *Writer) charge(entries, bytes int64) error {
	if w.entries+entries > w.options.MaxEntries {
		return &LimitError{"entries", w.options.MaxEntries}
	}
	if w.metadata+bytes > w.maxMetadata {
		return &LimitError{"bytes of metadata", w.maxMetadata}
	}
	w.entries += entries
	w.metadata += bytes
	return nil
}

// drop takes a name away, and what has no other name with it.
func (w *Writer) drop(p place) {
	delete(p.parent.children, p.name)
	w.release(p.name, p.node)
}

func (w *Writer) release(name string, n *node) {
	w.entries--
	w.metadata -= n.cost(name)
	n.links--
	if n.isDirectory() {
		w.releaseChildren(n)
		return
	}
	if n.links == 0 {
		w.blocks.freeAll(n)
	}
}

func (w *Writer) releaseChildren(dir *node) {
	for name, child := range dir.children {
		w.release(name, child)
	}
	clear(dir.children)
}
