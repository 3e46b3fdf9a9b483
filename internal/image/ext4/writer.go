package ext4

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// The limits of a Writer whose options name none.
const (
	DefaultMaxBytes   = 32 << 30
	DefaultMaxEntries = 2_000_000
)

// defaultMaxMetadata bounds the memory that names, attributes and extents take.
// Two million ordinary entries need less.
const defaultMaxMetadata = 512 << 20

// largestMaxBytes is what MaxBytes can be at most: descriptors for more would
// not fit in the blocks that a resize inode can reserve.
const largestMaxBytes = 4 << 40

// WriterOptions says how a [Writer] makes its filesystem. The same options and
// calls give the same bytes when UUID and Time are given.
type WriterOptions struct {
	Label      string    // at most 16 bytes; may be empty
	MaxBytes   int64     // bytes of content, in whole blocks; 0: DefaultMaxBytes
	MaxEntries int64     // names in directories; 0: DefaultMaxEntries
	UUID       [16]byte  // zero: made up
	Time       time.Time // of the filesystem's making, and of what no Attr gives one; zero: now
}

// Writer makes a filesystem file out of calls that come in any order, without
// root and without a mount. Content goes into the file as it comes; only
// names, attributes and extents are kept in memory, and written by
// [Writer.Close]. Blocks that are all zeros become holes, of the filesystem and
// of the file.
//
// Paths are slash-separated, from the root of the filesystem, and never
// followed through symlinks: a path that goes through one gives a
// [*SymlinkError]. The empty path is the root. A call that fails leaves the
// filesystem as it was, but may have made missing parents.
//
// A Writer is used by one goroutine at a time.
type Writer struct {
	options WriterOptions
	time    time.Time
	blocks  *blocks
	root    *node

	entries     int64 // names in directories
	metadata    int64 // bytes of memory, about
	maxMetadata int64
}

// Create begins a filesystem in the file at path, which must not exist.
// One of Close and Abort must follow; Abort after Close does nothing.
func Create(path string, o WriterOptions) (*Writer, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("cannot begin a filesystem: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot begin a filesystem: %w", err)
	}
	w := &Writer{options: o, time: o.Time, blocks: newBlocks(file, o.MaxBytes), maxMetadata: defaultMaxMetadata}
	w.root = &node{children: map[string]*node{}, links: 1}
	w.root.set(Attr{Mode: modeDirectory | 0o755, Mtime: o.Time})
	return w, nil
}

func (o *WriterOptions) complete() error {
	if o.MaxBytes == 0 {
		o.MaxBytes = DefaultMaxBytes
	}
	if o.MaxEntries == 0 {
		o.MaxEntries = DefaultMaxEntries
	}
	if o.MaxBytes < 0 || o.MaxBytes > largestMaxBytes || o.MaxEntries < 0 || o.MaxEntries > 1<<30 {
		return fmt.Errorf("limits of %d bytes and %d entries make no sense", o.MaxBytes, o.MaxEntries)
	}
	if len(o.Label) > 16 {
		return fmt.Errorf("the label %q has more than 16 bytes", o.Label)
	}
	if o.UUID == [16]byte{} {
		rand.Read(o.UUID[:])
		o.UUID[6] = o.UUID[6]&0x0f | 0x40 // RFC 9562, version 4
		o.UUID[8] = o.UUID[8]&0x3f | 0x80
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	return nil
}

// hashSeed is what names are hashed with in large directories.
func (o *WriterOptions) hashSeed() []byte {
	sum := sha256.Sum256(append([]byte("hash seed "), o.UUID[:]...))
	return sum[:16]
}

// Mkdir makes a directory. One that is there gets the new attributes and keeps
// its children; something else there is replaced. Missing parents are made,
// root's, with mode 0755.
func (w *Writer) Mkdir(path string, a Attr) error {
	a, err := w.checked(a, modeDirectory)
	if err != nil {
		return cannotWrite(path, err)
	}
	p, err := w.findOrMake(path)
	if err != nil {
		return cannotWrite(path, err)
	}
	if p.node != nil && p.node.isDirectory() {
		return cannotWrite(path, w.reset(p, a))
	}
	dir := &node{children: map[string]*node{}}
	dir.set(a)
	return cannotWrite(path, w.put(p, dir))
}

// reset gives a directory new attributes.
func (w *Writer) reset(p place, a Attr) error {
	changed := &node{}
	changed.set(a)
	if err := w.charge(0, changed.cost(p.name)-p.node.cost(p.name)); err != nil {
		return err
	}
	p.node.set(a)
	return nil
}

// checked gives a the type kind, where it has one to choose, and a time, and
// refuses what can't be stored.
func (w *Writer) checked(a Attr, kind uint32) (Attr, error) {
	a.Mode = a.Mode&0o7777 | kind
	if a.Mtime.IsZero() {
		a.Mtime = w.time
	}
	return a, checkXattrs(a.Xattrs)
}

// File makes a regular file of the next size bytes of content, which must have
// so many. What is there, also a whole directory, is replaced when the content
// is in.
func (w *Writer) File(path string, a Attr, content io.Reader, size int64) error {
	a, err := w.checked(a, modeRegular)
	if err = errors.Join(err, w.checkSize(size)); err != nil {
		return cannotWrite(path, err)
	}
	p, err := w.findOrMake(path)
	if err != nil {
		return cannotWrite(path, err)
	}
	if p.parent == nil {
		return cannotWrite(path, ErrIsDirectory)
	}
	file := &node{size: size}
	file.set(a)
	if err = w.blocks.fill(file, content); err == nil {
		err = w.put(p, file)
	}
	if err != nil {
		w.blocks.freeAll(file)
	}
	return cannotWrite(path, err)
}

func (w *Writer) checkSize(size int64) error {
	if size < 0 {
		return fmt.Errorf("a file can't have %d bytes", size)
	}
	if size > w.options.MaxBytes {
		return &LimitError{"bytes of content", w.options.MaxBytes}
	}
	return nil
}

// Symlink makes a symbolic link; what is there is replaced.
func (w *Writer) Symlink(path, target string, a Attr) error {
	if target == "" {
		return cannotWrite(path, fmt.Errorf("a target of no bytes: %w", ErrName))
	}
	if len(target) > maxPath {
		return cannotWrite(path, fmt.Errorf("its target: %w", ErrNameTooLong))
	}
	link := &node{size: int64(len(target)), more: &rare{target: target}}
	a.Mode = 0o777
	return w.add(path, modeSymlink, link, a)
}

// Node makes what Mode says: a device, a FIFO or a socket; what is there is
// replaced.
func (w *Writer) Node(path string, a Attr) error {
	switch a.Mode & modeType {
	case modeChar, modeBlock, modeFIFO, modeSocket:
	default:
		return cannotWrite(path, fmt.Errorf("mode %#o: %w", a.Mode, ErrAttr))
	}
	if a.Major > maxMajor || a.Minor > maxMinor {
		return cannotWrite(path, fmt.Errorf("device %d:%d: %w", a.Major, a.Minor, ErrAttr))
	}
	return w.add(path, a.Mode&modeType, &node{}, a)
}

// add puts something that has no content at path.
func (w *Writer) add(path string, kind uint32, n *node, a Attr) error {
	a, err := w.checked(a, kind)
	if err != nil {
		return cannotWrite(path, err)
	}
	p, err := w.findOrMake(path)
	if err != nil {
		return cannotWrite(path, err)
	}
	if p.parent == nil {
		return cannotWrite(path, ErrIsDirectory)
	}
	n.set(a)
	return cannotWrite(path, w.put(p, n))
}

// Link gives what is at oldpath, and is no directory, another name; what is at
// newpath is replaced. An oldpath that is not there gives an error that wraps
// fs.ErrNotExist.
func (w *Writer) Link(oldpath, newpath string) error {
	old, err := w.find(oldpath)
	switch {
	case err != nil:
		return cannotWrite(newpath, err)
	case old.node == nil:
		return cannotWrite(newpath, fmt.Errorf("%s: %w", oldpath, fs.ErrNotExist))
	case old.node.isDirectory():
		return cannotWrite(newpath, fmt.Errorf("%s: %w", oldpath, ErrIsDirectory))
	}
	p, err := w.findOrMake(newpath)
	switch {
	case err != nil:
		return cannotWrite(newpath, err)
	case p.parent == nil:
		return cannotWrite(newpath, ErrIsDirectory)
	case p.node == old.node:
		return nil
	case old.node.links >= maxLinks:
		return cannotWrite(newpath, ErrTooManyLinks)
	}
	return cannotWrite(newpath, w.put(p, old.node))
}

// Remove takes away what is at path, with its children. What has another name
// stays under that; the blocks of what has none are free again. When nothing
// is there the error wraps fs.ErrNotExist.
func (w *Writer) Remove(path string) error {
	p, err := w.find(path)
	switch {
	case err != nil:
	case p.parent == nil:
		err = fmt.Errorf("the root: %w", ErrIsDirectory)
	case p.node == nil:
		err = fs.ErrNotExist
	default:
		w.drop(p)
	}
	if err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// RemoveChildren empties a directory, which keeps its attributes.
func (w *Writer) RemoveChildren(path string) error {
	p, err := w.find(path)
	switch {
	case err != nil:
	case p.node == nil:
		err = fs.ErrNotExist
	case !p.node.isDirectory():
		err = ErrNotDirectory
	default:
		w.releaseChildren(p.node)
	}
	if err != nil {
		return fmt.Errorf("cannot empty %s: %w", path, err)
	}
	return nil
}

// Lookup gives the attributes of what is at path, and whether something is. A
// symlink is what it is; a path through one leads to nothing.
func (w *Writer) Lookup(path string) (Attr, bool) {
	p, err := w.find(path)
	if err != nil || p.node == nil {
		return Attr{}, false
	}
	return p.node.attr(), true
}

// Readlink gives the target of the symlink at path, and whether one is there.
func (w *Writer) Readlink(path string) (string, bool) {
	p, err := w.find(path)
	if err != nil || p.node == nil || p.node.mode&modeType != modeSymlink {
		return "", false
	}
	return p.node.more.target, true
}

// Abort gives the filesystem up and removes its file.
func (w *Writer) Abort() error {
	if w.blocks.file == nil {
		return nil
	}
	file := w.blocks.file
	w.blocks.file = nil
	return errors.Join(file.Close(), os.Remove(file.Name()))
}

func cannotWrite(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("cannot write %s: %w", path, err)
}
