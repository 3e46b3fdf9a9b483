package filetree

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// Source is a tree to send.
type Source struct {
	// Keep tells what of a directory goes along, by its path within the tree. Of
	// a directory that stays behind nothing goes. Nil: all.
	Keep func(path string, dir bool) bool

	top  *os.Root // the tree itself, if it is a directory
	file *os.File // the tree itself, if it is a file
	info fs.FileInfo
}

// Open opens the tree at path. A link there is followed: it is what the user
// named.
func Open(path string) (*Source, error) {
	// Not blocking: a pipe must not hold the copy up.
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no file or directory %s", path)
	case err != nil:
		return nil, fmt.Errorf("cannot open what is to be copied: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	switch {
	case info.Mode().IsRegular():
		return &Source{file: file, info: info}, nil
	case !info.IsDir():
		file.Close()
		return nil, fmt.Errorf("%s is neither a file nor a directory", path)
	}
	file.Close()
	top, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open what is to be copied: %w", err)
	}
	return &Source{top: top, info: info}, nil
}

// Close closes the files.
func (s *Source) Close() error {
	if s.top != nil {
		return s.top.Close()
	}
	return s.file.Close()
}

// Send sends the tree over conn, by name, and waits until the receiver has it.
func (s *Source) Send(conn io.ReadWriter, name string, report func(Progress)) (Summary, error) {
	t := newSender(conn, report)
	t.keep = s.Keep
	var err error
	if s.top != nil {
		err = t.dir(s.top, name, name, s.info, 0)
	} else {
		err = t.file(s.file, name, name, s.info)
	}
	return t.sent, t.finish(err)
}

// SendStream sends what r gives as one file.
func SendStream(conn io.ReadWriter, name string, mode fs.FileMode, r io.Reader, report func(Progress)) (Summary, error) {
	t := newSender(conn, report)
	err := t.entry(proto.Entry{Kind: proto.EntryFile, Name: []byte(name), Mode: uint32(mode.Perm()), Size: -1, Time: time.Now().UnixNano()})
	if err == nil {
		t.begin(name, -1)
		if err = t.data(r); err == nil {
			err = t.end()
		}
	}
	return t.sent, t.finish(err)
}

// sender is one tree on its way.
type sender struct {
	out    *proto.Writer
	report func(Progress)
	keep   func(path string, dir bool) bool
	sent   Summary
	at     Progress
	buffer []byte

	resumes chan int64
	taken   chan struct{} // closed when the receiver has said its last word, or is gone
	word    error         // that word; set before taken is closed
}

func newSender(conn io.ReadWriter, report func(Progress)) *sender {
	t := &sender{out: proto.NewWriter(conn), report: report, buffer: make([]byte, proto.MaxData),
		resumes: make(chan int64), taken: make(chan struct{})}
	go t.listen(proto.NewReader(conn))
	return t
}

// listen hears the receiver.
func (t *sender) listen(frames *proto.Reader) {
	defer close(t.taken)
	for {
		f, err := frames.Next()
		switch {
		case err != nil:
			t.word = fmt.Errorf("%w: %v", ErrLost, err)
			return
		case f.Type == proto.TypeTreeTaken:
			t.word = decodeReply(f.Payload)
			return
		case f.Type != proto.TypeResume:
			t.word = fmt.Errorf("%w: frame of type %d from a receiver", proto.ErrFrame, f.Type)
			return
		}
		select {
		case t.resumes <- int64(f.Uint64()):
		case <-time.After(resumeTimeout):
			t.word = fmt.Errorf("%w: an offset that nobody asked for", proto.ErrFrame)
			return
		}
	}
}

// wordTimeout bounds how long a sender that failed waits for the receiver's last
// word.
const wordTimeout = time.Second

// resumeTimeout bounds how long an offset may come before the sender asks.
const resumeTimeout = time.Minute

// finish tells the receiver how it ended here, and hears how it ended there.
// What ended it there is the better reason.
func (t *sender) finish(err error) error {
	if sendErr := t.out.JSON(proto.TypeTreeEnd, lastWord(err)); sendErr != nil && err == nil {
		err = fmt.Errorf("%w: %v", ErrLost, sendErr)
	}
	if err != nil {
		select {
		case <-t.taken:
		case <-time.After(wordTimeout):
			return err
		}
		if (errors.Is(err, errTaken) || errors.Is(err, ErrLost)) && t.word != nil {
			return t.word
		}
		return err
	}
	<-t.taken
	return t.word
}

// errTaken is a receiver that said its last word before the end.
var errTaken = errors.New("the receiver ended the copy")

func (t *sender) frame(kind proto.Type, payload []byte) error {
	select {
	case <-t.taken:
		return errTaken
	default:
	}
	if err := t.out.Frame(kind, payload); err != nil {
		return fmt.Errorf("%w: %v", ErrLost, err)
	}
	return nil
}

func (t *sender) entry(e proto.Entry) error {
	select {
	case <-t.taken:
		return errTaken
	default:
	}
	if err := t.out.JSON(proto.TypeEntry, e); err != nil {
		return fmt.Errorf("%w: %v", ErrLost, err)
	}
	return nil
}

func (t *sender) end() error { return t.frame(proto.TypeEntryEnd, nil) }

// leaveOut tells that something does not go along.
func (t *sender) leaveOut(path string, why error) error {
	var inPath *fs.PathError
	if errors.As(why, &inPath) {
		why = inPath.Err
	}
	n := proto.Note{Path: []byte(path), Why: why.Error()}
	if len(n.Path) > maxTarget {
		n.Path = n.Path[:maxTarget]
	}
	t.sent.note(n)
	if err := t.out.JSON(proto.TypeNote, n); err != nil {
		return fmt.Errorf("%w: %v", ErrLost, err)
	}
	return nil
}

// dir sends a directory. The path is for people.
func (t *sender) dir(root *os.Root, name, path string, info fs.FileInfo, depth int) error {
	if depth > MaxDepth {
		return t.leaveOut(path, fmt.Errorf("it is deeper than %d directories", MaxDepth))
	}
	list, err := root.Open(".")
	if err != nil {
		return t.leaveOut(path, err)
	}
	defer list.Close()
	if err := t.entry(entryOf(proto.EntryDir, name, info)); err != nil {
		return err
	}
	for {
		things, err := list.ReadDir(1024)
		for _, thing := range things {
			if err := t.thing(root, thing.Name(), filepath.Join(path, thing.Name()), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return t.end()
		}
		if err != nil {
			if err := t.leaveOut(path, err); err != nil {
				return err
			}
			return t.end()
		}
	}
}

// thing sends what a directory has by a name.
func (t *sender) thing(root *os.Root, name, path string, depth int) error {
	if isPart(name) {
		return t.leaveOut(path, errors.New("it is what an interrupted copy left"))
	}
	info, err := root.Lstat(name)
	if err != nil {
		return t.leaveOut(path, err)
	}
	if t.keep != nil && !t.keep(within(path), info.IsDir()) {
		return nil
	}
	switch info.Mode().Type() {
	case 0:
		file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return t.leaveOut(path, err)
		}
		defer file.Close()
		if info, err = file.Stat(); err != nil || !info.Mode().IsRegular() {
			return t.leaveOut(path, errors.New("it changed while it was copied"))
		}
		return t.file(file, name, path, info)
	case fs.ModeDir:
		below, err := root.OpenRoot(name)
		if err != nil {
			return t.leaveOut(path, err)
		}
		defer below.Close()
		return t.dir(below, name, path, info, depth+1)
	case fs.ModeSymlink:
		return t.link(root, name, path, info)
	}
	return t.leaveOut(path, errors.New("it is neither a file nor a directory nor a link"))
}

// within takes the tree's own name off a path.
func within(path string) string {
	_, below, _ := strings.Cut(path, "/")
	return below
}

func entryOf(kind proto.EntryKind, name string, info fs.FileInfo) proto.Entry {
	return proto.Entry{Kind: kind, Name: []byte(name), Mode: uint32(info.Mode().Perm()), Time: info.ModTime().UnixNano()}
}

func (t *sender) link(root *os.Root, name, path string, info fs.FileInfo) error {
	target, err := root.Readlink(name)
	if err != nil {
		return t.leaveOut(path, err)
	}
	e := entryOf(proto.EntryLink, name, info)
	e.Target = []byte(target)
	t.sent.Files++
	return t.entry(e)
}

// file sends a file as it is now: what is added meanwhile stays behind. One
// without a size, as in /proc, is read to its end.
func (t *sender) file(file *os.File, name, path string, info fs.FileInfo) error {
	e := entryOf(proto.EntryFile, name, info)
	e.Size = info.Size()
	var early []byte
	if e.Size == 0 {
		n, err := file.Read(t.buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			return t.leaveOut(path, err)
		}
		if n > 0 {
			e.Size, early = -1, append(early, t.buffer[:n]...)
		}
	}
	if err := t.entry(e); err != nil {
		return err
	}
	t.begin(path, e.Size)
	if e.Size < 0 {
		if err := t.piece(early); err != nil {
			return err
		}
		if err := t.data(file); err != nil {
			return err
		}
		return t.end()
	}
	whole, err := t.extents(file, info)
	if err != nil {
		return err
	}
	if !whole {
		if err := t.leaveOut(path, errors.New("it became shorter while it was copied")); err != nil {
			return err
		}
	}
	return t.end()
}

func (t *sender) begin(path string, size int64) {
	t.at.Path, t.at.Size, t.at.Done, t.at.Files = path, size, 0, t.sent.Files
	t.sent.Files++
}

// piece sends bytes of the open file.
func (t *sender) piece(p []byte) error {
	if err := t.frame(proto.TypeFileData, p); err != nil {
		return err
	}
	t.sent.Bytes += int64(len(p))
	t.moved(int64(len(p)))
	return nil
}

func (t *sender) moved(n int64) {
	t.at.Done += n
	t.at.Bytes = t.sent.Bytes
	t.report(t.at)
}

func (t *sender) data(r io.Reader) error {
	for {
		n, err := r.Read(t.buffer)
		if n > 0 {
			if err := t.piece(t.buffer[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read %s: %w", t.at.Path, err)
		}
	}
}

// extents sends a file's data and holes from where the receiver wants them. It
// is whole unless the file became shorter.
func (t *sender) extents(file *os.File, info fs.FileInfo) (whole bool, err error) {
	size := info.Size()
	off, err := t.from(size)
	if err != nil {
		return false, err
	}
	t.at.Done = off
	sparse := isSparse(info)
	for off < size {
		begin, end := off, size
		if sparse {
			begin, end = nextData(file, off, size)
		}
		if begin > off {
			if err := t.hole(begin - off); err != nil {
				return false, err
			}
		}
		n, err := t.extent(file, begin, end)
		if err != nil {
			return false, err
		}
		if n < end-begin {
			return false, nil
		}
		off = end
	}
	return true, nil
}

// from asks the receiver where a large file is to begin.
func (t *sender) from(size int64) (int64, error) {
	if size < ResumeSize {
		return 0, nil
	}
	select {
	case off := <-t.resumes:
		if off < 0 || off > size {
			return 0, fmt.Errorf("%w: a file of %d bytes is to begin at %d", proto.ErrFrame, size, off)
		}
		return off, nil
	case <-t.taken:
		return 0, errTaken
	}
}

func (t *sender) hole(n int64) error {
	if err := t.frame(proto.TypeHole, binary.BigEndian.AppendUint64(nil, uint64(n))); err != nil {
		return err
	}
	t.moved(n)
	return nil
}

// extent sends the bytes from begin to end, and gives how many there were.
func (t *sender) extent(file *os.File, begin, end int64) (int64, error) {
	section := io.NewSectionReader(file, begin, end-begin)
	before := t.at.Done
	err := t.data(section)
	return t.at.Done - before, err
}

// isSparse tells whether a file takes less room than it is long.
func isSparse(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Blocks*512 < info.Size()
}

// nextData gives the next data of a sparse file at or after off; both are size
// where there is none. A filesystem that knows no holes has data everywhere.
func nextData(file *os.File, off, size int64) (begin, end int64) {
	fd := int(file.Fd())
	begin, err := unix.Seek(fd, off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size
	}
	if err != nil {
		return off, size
	}
	end, err = unix.Seek(fd, begin, unix.SEEK_HOLE)
	if err != nil {
		end = size
	}
	return min(begin, size), min(end, size)
}
