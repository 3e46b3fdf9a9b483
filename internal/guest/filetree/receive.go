package filetree

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// Target is where a tree is to go.
type Target struct {
	dir  *os.Root
	name string
	// Reserve is how many bytes must stay free on the disk.
	Reserve int64
}

// Into finds the place for a tree: inside of path by the name base when path is
// a directory, else path itself, whose parent must be there.
func Into(path, base string) (*Target, error) {
	if path == "" {
		return nil, errors.New("there is no path to copy to")
	}
	name := base
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
	case path[len(path)-1] == '/':
		return nil, fmt.Errorf("there is no directory %s", path)
	case err == nil && !givesWay(info):
		return nil, fmt.Errorf("%s is there, and is neither a file nor a directory", path)
	default:
		path, name = filepath.Dir(path), filepath.Base(path)
	}
	if name == "" || name == "." || name == ".." || name == "/" || len(name) > maxName {
		return nil, fmt.Errorf("%q is no name for a copy", name)
	}
	dir, err := os.OpenRoot(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no directory %s", path)
	case err != nil:
		return nil, fmt.Errorf("cannot open the directory to copy to: %w", err)
	}
	return &Target{dir: dir, name: name}, nil
}

// Close closes the directory.
func (t *Target) Close() error { return t.dir.Close() }

// Receive takes a tree from conn. What an earlier copy left there is kept,
// unless the tree has something else by its name; a directory gives way to
// nothing. It ends with the receiver's last word, which the sender waits for.
func (t *Target) Receive(conn io.ReadWriter, report func(Progress)) (Summary, error) {
	r := newReceiver(conn, report)
	r.reserve = t.Reserve
	f, err := r.next()
	if err == nil {
		err = r.thing(t.dir, t.name, t.name, f, 0)
	}
	if err == nil {
		err = r.close()
	}
	// A sender that is gone needs no word.
	_ = r.out.JSON(proto.TypeTreeTaken, lastWord(err))
	return r.got, err
}

// ReceiveStream takes a tree that is one file, and writes it to w.
func ReceiveStream(conn io.ReadWriter, w io.Writer, report func(Progress)) (Summary, error) {
	r := newReceiver(conn, report)
	f, err := r.next()
	if err == nil {
		err = r.stream(f, w)
	}
	if err == nil {
		err = r.close()
	}
	_ = r.out.JSON(proto.TypeTreeTaken, lastWord(err))
	return r.got, err
}

// receiver is one tree that comes.
type receiver struct {
	in      *proto.Reader
	out     *proto.Writer
	report  func(Progress)
	reserve int64

	got     Summary
	at      Progress
	entries int64
	checked int64 // bytes that had come when the disk was last looked at
}

func newReceiver(conn io.ReadWriter, report func(Progress)) *receiver {
	return &receiver{in: proto.NewReader(conn), out: proto.NewWriter(conn), report: report, checked: -spaceStep}
}

// next gives the next frame that is not a note.
func (r *receiver) next() (proto.Frame, error) {
	for {
		f, err := r.in.Next()
		switch {
		case errors.Is(err, proto.ErrFrame):
			return f, err
		case err != nil:
			return f, fmt.Errorf("%w: %v", ErrLost, err)
		case f.Type == proto.TypeTreeEnd:
			if err := decodeReply(f.Payload); err != nil {
				return f, err
			}
			return f, nil
		case f.Type != proto.TypeNote:
			return f, nil
		}
		if err := r.count(); err != nil {
			return f, err
		}
		var n proto.Note
		if err := proto.Decode(f.Payload, &n); err != nil {
			return f, err
		}
		n.Why = proto.Clean(n.Why, proto.MaxText)
		r.got.note(n)
	}
}

func (r *receiver) count() error {
	r.entries++
	if r.entries > MaxEntries {
		return fmt.Errorf("there are more than %d files", MaxEntries)
	}
	return nil
}

// close takes the sender's last frame.
func (r *receiver) close() error {
	f, err := r.next()
	if err == nil && f.Type != proto.TypeTreeEnd {
		err = unexpected(f)
	}
	return err
}

func unexpected(f proto.Frame) error {
	return fmt.Errorf("%w: frame of type %d in a tree of files", proto.ErrFrame, f.Type)
}

func (r *receiver) decode(f proto.Frame, top bool) (proto.Entry, error) {
	var e proto.Entry
	if f.Type != proto.TypeEntry {
		return e, unexpected(f)
	}
	if err := r.count(); err != nil {
		return e, err
	}
	if err := proto.Decode(f.Payload, &e); err != nil {
		return e, err
	}
	return e, checkEntry(e, top)
}

// thing takes what begins with the frame f and puts it into dir by a name.
func (r *receiver) thing(dir *os.Root, name, path string, f proto.Frame, depth int) error {
	e, err := r.decode(f, depth == 0)
	if err != nil {
		return err
	}
	if depth > MaxDepth {
		return fmt.Errorf("the directories are deeper than %d", MaxDepth)
	}
	if info, err := dir.Lstat(name); err == nil && !givesWay(info) {
		return fmt.Errorf("%s is there, and is neither a file nor a directory nor a link", path)
	}
	switch e.Kind {
	case proto.EntryDir:
		return r.dir(dir, name, path, e, depth)
	case proto.EntryLink:
		r.got.Files++
		return r.link(dir, name, e)
	default:
		return r.file(dir, name, path, e)
	}
}

// givesWay tells what a copy may come upon: a device, a pipe or a socket is not
// what somebody means who names a place for files.
func givesWay(info fs.FileInfo) bool {
	return info.Mode().IsRegular() || info.IsDir() || info.Mode().Type() == fs.ModeSymlink
}

// dir takes a directory. One that is there already keeps what it has; a link
// to one is not followed.
func (r *receiver) dir(parent *os.Root, name, path string, e proto.Entry, depth int) error {
	made := true
	err := parent.Mkdir(name, 0o700)
	if errors.Is(err, fs.ErrExist) {
		made = false
		info, lookErr := parent.Lstat(name)
		if lookErr == nil && info.IsDir() {
			err = nil
		} else {
			err = fmt.Errorf("there is a file or a link %s in the place of a directory", path)
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make the directory: %w", err)
	}
	dir, err := parent.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("cannot open the directory: %w", err)
	}
	defer dir.Close()
	for {
		f, err := r.next()
		if err != nil {
			return err
		}
		if f.Type == proto.TypeEntryEnd {
			break
		}
		child, err := childName(f)
		if err != nil {
			return err
		}
		if err := r.thing(dir, child, filepath.Join(path, child), f, depth+1); err != nil {
			return err
		}
	}
	if !made {
		return nil
	}
	return settle(parent, name, e)
}

// childName looks ahead at an entry's name, which thing checks.
func childName(f proto.Frame) (string, error) {
	var e proto.Entry
	if f.Type != proto.TypeEntry {
		return "", unexpected(f)
	}
	if err := proto.Decode(f.Payload, &e); err != nil {
		return "", err
	}
	return string(e.Name), checkEntry(e, false)
}

// settle gives a whole thing its mode and its time. Bits that lend a file's
// owner to others are never taken over.
func settle(dir *os.Root, name string, e proto.Entry) error {
	if err := dir.Chmod(name, fs.FileMode(e.Mode&0o777)); err != nil {
		return fmt.Errorf("cannot set the mode: %w", err)
	}
	if e.Time == 0 {
		return nil
	}
	when := time.Unix(0, e.Time)
	if err := dir.Chtimes(name, when, when); err != nil {
		return fmt.Errorf("cannot set the time: %w", err)
	}
	return nil
}

// link makes a link in the place of any file, which it does not write through.
func (r *receiver) link(dir *os.Root, name string, e proto.Entry) error {
	temporary := partName(rand.Text())
	if err := dir.Symlink(string(e.Target), temporary); err != nil {
		return fmt.Errorf("cannot make a link: %w", err)
	}
	if err := dir.Rename(temporary, name); err != nil {
		_ = dir.Remove(temporary)
		return fmt.Errorf("cannot put a link into its place: %w", err)
	}
	return nil
}

// partEnd is how the names of files that are not whole yet end.
const partEnd = ".banger-part"

func partName(key string) string { return "." + key + partEnd }

func isPart(name string) bool {
	return strings.HasPrefix(name, ".") && strings.HasSuffix(name, partEnd)
}

// partKey is the same for two copies of the same file: its name, size and time.
func partKey(name string, e proto.Entry) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", name, e.Size, e.Time))
	return hex.EncodeToString(sum[:12])
}

// part is a file that comes, in the directory where it will be.
type part struct {
	dir  *os.Root
	name string
	file *os.File
	off  int64
	keep bool // worth to be gone on with
}

func openPart(dir *os.Root, name string, e proto.Entry) (*part, error) {
	if e.Size < ResumeSize {
		p := &part{dir: dir, name: partName(rand.Text())}
		return p, p.open(os.O_EXCL)
	}
	p := &part{dir: dir, name: partName(partKey(name, e)), keep: true}
	patience, done := context.WithTimeoutCause(context.Background(), handOver, errors.New("another copy of the same file is under way"))
	defer done()
	for {
		if err := p.open(0); err != nil {
			return nil, err
		}
		if err := filelock.Wait(patience, p.file); err != nil {
			p.file.Close()
			return nil, fmt.Errorf("cannot lock a file: %w", err)
		}
		err := p.goOn(e.Size)
		if err == nil {
			return p, nil
		}
		p.file.Close()
		if !errors.Is(err, errCameToItsEnd) {
			return nil, err
		}
	}
}

func (p *part) open(flags int) error {
	var err error
	if p.file, err = p.dir.OpenFile(p.name, os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW|flags, 0o600); err != nil {
		return fmt.Errorf("cannot make a file: %w", err)
	}
	return nil
}

// handOver is how long a copy that was cut off may take to see that, while the
// same copy waits to go on with it.
const handOver = 10 * time.Second

var errCameToItsEnd = errors.New("the other copy came to its end")

// goOn finds where a part ends.
func (p *part) goOn(size int64) error {
	info, err := p.file.Stat()
	if err != nil {
		return fmt.Errorf("cannot look at what an earlier copy left: %w", err)
	}
	if now, err := p.dir.Lstat(p.name); err != nil || !os.SameFile(info, now) {
		return errCameToItsEnd // since it was opened
	}
	if !info.Mode().IsRegular() || info.Size() > size {
		return fmt.Errorf("%s is no part of the file", p.name)
	}
	p.off = info.Size()
	return nil
}

func (p *part) write(data []byte) error {
	n, err := p.file.WriteAt(data, p.off)
	p.off += int64(n)
	return err
}

// skip makes a hole. The length tells the next copy how far this one came.
func (p *part) skip(n int64) error {
	p.off += n
	return p.file.Truncate(p.off)
}

// drop takes the part away, unless it is worth to be gone on with. It is locked
// until then: the next copy would go on with a file that has no name any more.
func (p *part) drop(why error) {
	defer p.file.Close()
	if !p.keep || !errors.Is(why, ErrLost) {
		_ = p.dir.Remove(p.name)
	}
}

// place puts the whole file where it belongs. It is closed before, since some
// filesystems say only then that they have no room, and locked until it is there.
func (p *part) place(name string, e proto.Entry) error {
	defer p.file.Close() // again, unless there was no descriptor for the lock
	locked, err := unix.FcntlInt(p.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(locked)
		err = p.file.Close()
	}
	if err == nil {
		err = settle(p.dir, p.name, e)
	}
	if err == nil {
		err = p.dir.Rename(p.name, name)
	}
	if err != nil {
		_ = p.dir.Remove(p.name)
		return fmt.Errorf("cannot put a file into its place: %w", err)
	}
	return nil
}

func (r *receiver) begin(path string, size int64) {
	r.at.Path, r.at.Size, r.at.Done, r.at.Files = path, size, 0, r.got.Files
	r.got.Files++
}

func (r *receiver) file(dir *os.Root, name, path string, e proto.Entry) error {
	r.begin(path, e.Size)
	p, err := openPart(dir, name, e)
	if err != nil {
		return err
	}
	if p.keep {
		if err := r.out.Uint64(proto.TypeResume, uint64(p.off)); err != nil {
			err = fmt.Errorf("%w: %v", ErrLost, err)
			p.drop(err)
			return err
		}
	}
	whole, err := r.content(p, path, e)
	if err != nil {
		p.drop(err)
		return err
	}
	if !whole {
		p.drop(nil) // the sender has noted why
		return nil
	}
	return p.place(name, e)
}

// content takes a file's bytes. It is whole when as many came as were promised.
func (r *receiver) content(p *part, path string, e proto.Entry) (whole bool, err error) {
	for {
		f, err := r.next()
		if err != nil {
			return false, err
		}
		n := int64(len(f.Payload))
		switch f.Type {
		case proto.TypeEntryEnd:
			return e.Size < 0 || p.off == e.Size, nil
		case proto.TypeFileData:
			if err = tooMuch(p.off, n, e.Size); err == nil {
				err = r.room(p.file)
			}
			if err == nil {
				err = told(p.write(f.Payload), path, p.off, e.Size)
				r.got.Bytes += n
			}
		case proto.TypeHole:
			n = int64(f.Uint64())
			if err = tooMuch(p.off, n, e.Size); err == nil {
				err = told(p.skip(n), path, p.off, e.Size)
			}
		default:
			err = unexpected(f)
		}
		if err != nil {
			return false, err
		}
		r.at.Done, r.at.Bytes = p.off, r.got.Bytes
		r.report(r.at)
	}
}

// told says with numbers how far a file came.
func told(err error, path string, off, size int64) error {
	if err == nil {
		return nil
	}
	var inPath *fs.PathError
	if errors.As(err, &inPath) {
		err = inPath.Err
	}
	return fmt.Errorf("cannot write %s: %w (after %d of %d bytes)", path, err, off, size)
}

// tooMuch refuses bytes beyond the size that was promised.
func tooMuch(off, n, size int64) error {
	most := size
	if size < 0 {
		most = maxFile
	}
	if n <= 0 || n > most-off {
		return fmt.Errorf("%w: a file of %d bytes that has more", proto.ErrFrame, size)
	}
	return nil
}

// spaceStep is how many bytes may come between two looks at the disk.
const spaceStep = 32 << 20

// room refuses to fill a disk up to its reserve.
func (r *receiver) room(file *os.File) error {
	if r.reserve == 0 || r.got.Bytes-r.checked < spaceStep {
		return nil
	}
	r.checked = r.got.Bytes
	var disk unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &disk); err != nil {
		return fmt.Errorf("cannot look how much room the disk has: %w", err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free < r.reserve {
		return fmt.Errorf("only %d MiB are free on the disk: %w", free>>20, unix.ENOSPC)
	}
	return nil
}

// stream writes a single file to w, its holes as zeros.
func (r *receiver) stream(f proto.Frame, w io.Writer) error {
	e, err := r.decode(f, true)
	if err != nil {
		return err
	}
	if e.Kind != proto.EntryFile {
		return errors.New("it is a directory, and only a file can be a stream")
	}
	r.begin("", e.Size)
	if e.Size >= ResumeSize {
		if err := r.out.Uint64(proto.TypeResume, 0); err != nil {
			return fmt.Errorf("%w: %v", ErrLost, err)
		}
	}
	var off int64
	for {
		f, err := r.next()
		if err != nil {
			return err
		}
		switch f.Type {
		case proto.TypeEntryEnd:
			if e.Size >= 0 && off != e.Size {
				return fmt.Errorf("it became shorter while it was copied: %d of %d bytes came", off, e.Size)
			}
			return nil
		case proto.TypeFileData, proto.TypeHole:
			n := int64(len(f.Payload))
			source := io.Reader(nil)
			if f.Type == proto.TypeHole {
				n = int64(f.Uint64())
				source = io.LimitReader(zeros{}, n)
			}
			if err := tooMuch(off, n, e.Size); err != nil {
				return err
			}
			if source != nil {
				_, err = io.Copy(w, source)
			} else {
				_, err = w.Write(f.Payload)
				r.got.Bytes += n
			}
			if err != nil {
				return fmt.Errorf("cannot write what came: %w", err)
			}
			off += n
		default:
			return unexpected(f)
		}
		r.at.Done, r.at.Bytes = off, r.got.Bytes
		r.report(r.at)
	}
}

// zeros reads as zero bytes without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
