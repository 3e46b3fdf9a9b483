package filetree_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/filetree"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// wire is a real socket with two ends.
func wire(t testing.TB) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "wire")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

func quiet(filetree.Progress) {}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyTree copies a tree, and gives what both ends say of it.
func copyTree(t testing.TB, from, to string) (sent, got filetree.Summary, sendErr, err error) {
	t.Helper()
	here, there := wire(t)
	source, err := filetree.Open(from)
	check(t, err)
	defer source.Close()
	target, err := filetree.Into(to, filepath.Base(from))
	check(t, err)
	defer target.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		sent, sendErr = source.Send(here, filepath.Base(from), quiet)
	}()
	got, err = target.Receive(there, quiet)
	if err != nil {
		there.Close()
	}
	<-done
	return sent, got, sendErr, err
}

// list describes all that is in a directory.
func list(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		check(t, err)
		line := fmt.Sprintf("%q %v %d", strings.TrimPrefix(path, dir), info.Mode(), info.ModTime().Unix())
		switch {
		case info.Mode().IsRegular():
			text, err := os.ReadFile(path)
			check(t, err)
			line += fmt.Sprintf(" %d %x", len(text), text[:min(len(text), 20)])
		case info.Mode().Type() == fs.ModeSymlink:
			target, err := os.Readlink(path)
			check(t, err)
			line = fmt.Sprintf("%q -> %q", strings.TrimPrefix(path, dir), target)
		case info.IsDir():
			line = fmt.Sprintf("%q %v", strings.TrimPrefix(path, dir), info.Mode())
		}
		all = append(all, line)
		return nil
	}))
	return all
}

func put(t testing.TB, path, text string, mode fs.FileMode) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(path), 0o755))
	check(t, os.WriteFile(path, []byte(text), 0o600))
	check(t, os.Chmod(path, mode))
	check(t, os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)))
}

func TestTreeComesBackWhole(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	put(t, from+"/empty", "", 0o644)
	put(t, from+"/run.sh", "#!/bin/sh\n", 0o755)
	put(t, from+"/secret", "x", 0o600)
	put(t, from+"/bytes\xff\xfe", "not UTF-8", 0o644)
	put(t, from+"/line\nend", "newline", 0o644)
	put(t, from+"/a/b/c/deep", "deep", 0o640)
	put(t, from+"/large", strings.Repeat("0123456789abcdef", 1<<20), 0o644)
	put(t, from+"/.hidden", "h", 0o644)
	check(t, os.Mkdir(from+"/void", 0o711))
	check(t, os.Symlink("/etc/passwd", from+"/absolute"))
	check(t, os.Symlink("../../outside", from+"/a/up"))
	check(t, os.Symlink("nowhere", from+"/dangling"))
	sent, got, sendErr, err := copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	if diff := cmp.Diff(list(t, from), list(t, to+"/tree")); diff != "" {
		t.Error(diff)
	}
	if sent.Files != 11 || !cmp.Equal(sent, got) {
		t.Errorf("sent %+v, got %+v", sent, got)
	}
	// Again over what is there, with something else in it.
	put(t, to+"/tree/mine", "kept", 0o644)
	put(t, from+"/empty", "no more", 0o644)
	_, _, sendErr, err = copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	check(t, os.Remove(to+"/tree/mine"))
	if diff := cmp.Diff(list(t, from), list(t, to+"/tree")); diff != "" {
		t.Error(diff)
	}
}

func TestHolesStayHoles(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "sparse"), t.TempDir()
	file, err := os.Create(from)
	check(t, err)
	const size = 1 << 30
	for _, off := range []int64{0, 300 << 20, size / 2} {
		_, err := file.WriteAt([]byte("data"), off)
		check(t, err)
	}
	check(t, file.Truncate(size))
	check(t, file.Close())
	sent, _, sendErr, err := copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	info, err := os.Stat(to + "/sparse")
	check(t, err)
	if info.Size() != size || info.Sys().(*syscall.Stat_t).Blocks*512 > 1<<20 || sent.Bytes > 1<<20 {
		t.Errorf("%d bytes in %d blocks, %d sent", info.Size(), info.Sys().(*syscall.Stat_t).Blocks, sent.Bytes)
	}
	copied, err := os.Open(to + "/sparse")
	check(t, err)
	defer copied.Close()
	word := make([]byte, 4)
	if _, err := copied.ReadAt(word, 300<<20); err != nil || string(word) != "data" {
		t.Errorf("%q, %v", word, err)
	}
}

func TestWhatDoesNotGoAlong(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	put(t, from+"/setuid", "x", 0o755|fs.ModeSetuid|fs.ModeSetgid)
	put(t, from+"/.0.banger-part", "half", 0o600)
	check(t, unix.Mkfifo(from+"/pipe", 0o600))
	sent, got, sendErr, err := copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	if info, err := os.Stat(to + "/tree/setuid"); err != nil || info.Mode() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var told []string
	for _, n := range got.Notes {
		told = append(told, string(n.Path))
	}
	slices.Sort(told)
	if !slices.Equal(told, []string{"tree/.0.banger-part", "tree/pipe"}) || len(sent.Notes) != 2 {
		t.Errorf("told of %q", told)
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	from, to, outside := filepath.Join(t.TempDir(), "tree"), t.TempDir(), t.TempDir()
	put(t, from+"/file", "new", 0o644)
	put(t, outside+"/file", "old", 0o644)
	check(t, os.Mkdir(to+"/tree", 0o755))
	check(t, os.Symlink(outside+"/file", to+"/tree/file"))
	_, _, sendErr, err := copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	if text, _ := os.ReadFile(to + "/tree/file"); string(text) != "new" {
		t.Errorf("copied: %q", text)
	}
	put(t, from+"/dir/x", "new", 0o644)
	check(t, os.Symlink(outside, to+"/tree/dir"))
	_, _, sendErr, err = copyTree(t, from, to)
	if err == nil || sendErr == nil || !strings.Contains(sendErr.Error(), "in the place of a directory") {
		t.Errorf("%v, %v", sendErr, err)
	}
	if text, _ := os.ReadFile(outside + "/file"); string(text) != "old" || len(list(t, outside)) != 1 {
		t.Errorf("written through a link: %q", list(t, outside))
	}
}

// cutting breaks a connection when so many bytes have been read.
type cutting struct {
	net.Conn
	left int
}

func (c *cutting) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func TestACutCopyGoesOn(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "large"), t.TempDir()
	text := make([]byte, 24<<20)
	for i := range text {
		text[i] = byte(i * 2654435761 >> 16)
	}
	put(t, from, string(text), 0o644)
	here, there := wire(t)
	source, err := filetree.Open(from)
	check(t, err)
	defer source.Close()
	target, err := filetree.Into(to, "large")
	check(t, err)
	defer target.Close()
	done := make(chan error, 1)
	go func() {
		_, err := source.Send(here, "large", quiet)
		done <- err
	}()
	_, err = target.Receive(&cutting{there, 10 << 20}, quiet)
	there.Close()
	if !errors.Is(err, filetree.ErrLost) || <-done == nil {
		t.Fatalf("%v", err)
	}
	if left, _ := os.ReadDir(to); len(left) != 1 || left[0].Name() == "large" {
		t.Fatalf("left: %v", left)
	}
	sent, _, sendErr, err := copyTree(t, from, to)
	check(t, errors.Join(sendErr, err))
	if got, _ := os.ReadFile(to + "/large"); !bytes.Equal(got, text) || sent.Bytes > 15<<20 {
		t.Errorf("%d bytes came, %d travelled", len(got), sent.Bytes)
	}
	if left, _ := os.ReadDir(to); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// held gives so many bytes, and then none until it is told to go on, or that
// it is broken.
type held struct {
	net.Conn
	left  int
	holds chan struct{} // closed when it begins to
	until chan error
}

func (h *held) Read(p []byte) (int, error) {
	if h.left <= 0 {
		close(h.holds)
		if err := <-h.until; err != nil {
			return 0, err
		}
		h.left = math.MaxInt
	}
	n, err := h.Conn.Read(p[:min(len(p), h.left)])
	h.left -= n
	return n, err
}

// first tells of the first bytes that come.
type first struct {
	net.Conn
	once sync.Once
	came chan struct{}
}

func (f *first) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	f.once.Do(func() { close(f.came) })
	return n, err
}

// TestTheNextCopyWaits has a copy under way, and the same again: the first dies,
// which nobody has seen yet, or comes to its end, or leaves nothing to go on with.
func TestTheNextCopyWaits(t *testing.T) {
	t.Run("dies", func(t *testing.T) { nextWaits(t, io.ErrUnexpectedEOF) })
	t.Run("ends", func(t *testing.T) { nextWaits(t, nil) })
	t.Run("fails", func(t *testing.T) { nextWaits(t, proto.ErrFrame) })
}

func nextWaits(t *testing.T, end error) {
	from, to := filepath.Join(t.TempDir(), "large"), t.TempDir()
	text := strings.Repeat("large\n", 4<<20)
	put(t, from, text, 0o644)
	send := func(conn net.Conn) {
		source, err := filetree.Open(from)
		if err != nil {
			t.Error(err)
			return
		}
		defer source.Close()
		source.Send(conn, "large", quiet)
	}
	receive := func(conn net.Conn) error {
		target, err := filetree.Into(to, "large")
		if err != nil {
			return err
		}
		defer target.Close()
		_, err = target.Receive(conn, quiet)
		return err
	}
	here, there := wire(t)
	one := &held{Conn: there, left: 10 << 20, holds: make(chan struct{}), until: make(chan error, 1)}
	go send(here)
	over := make(chan error, 1)
	go func() { over <- receive(one) }()
	<-one.holds
	here, there = wire(t)
	next := &first{Conn: there, came: make(chan struct{})}
	go send(here)
	done := make(chan error, 1)
	go func() { done <- receive(next) }()
	<-next.came
	one.until <- end
	if err := <-over; (err == nil) != (end == nil) || errors.Is(err, filetree.ErrLost) != (end == io.ErrUnexpectedEOF) {
		t.Errorf("the first: %v", err)
	}
	check(t, <-done)
	if got, _ := os.ReadFile(to + "/large"); string(got) != text {
		t.Errorf("%d bytes came", len(got))
	}
	if left, _ := os.ReadDir(to); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

func TestStreams(t *testing.T) {
	to := t.TempDir()
	here, there := wire(t)
	target, err := filetree.Into(to+"/file", "unused")
	check(t, err)
	defer target.Close()
	text := strings.Repeat("stream", 3<<20)
	go filetree.SendStream(here, "file", 0o640, strings.NewReader(text), quiet)
	_, err = target.Receive(there, quiet)
	check(t, err)
	if info, _ := os.Stat(to + "/file"); info.Mode() != 0o640 || info.Size() != int64(len(text)) {
		t.Errorf("%v %d", info.Mode(), info.Size())
	}
	for _, path := range []string{to + "/file", "/proc/self/status"} {
		source, err := filetree.Open(path)
		check(t, err)
		defer source.Close()
		here, there := wire(t)
		go source.Send(here, "x", quiet)
		var back strings.Builder
		_, err = filetree.ReceiveStream(there, &back, quiet)
		check(t, err)
		if path == to+"/file" && back.String() != text || back.Len() == 0 {
			t.Errorf("%s: %d bytes", path, back.Len())
		}
	}
	source, err := filetree.Open(to)
	check(t, err)
	defer source.Close()
	here, there = wire(t)
	go source.Send(here, "x", quiet)
	if _, err = filetree.ReceiveStream(there, io.Discard, quiet); err == nil {
		t.Error("a directory was streamed")
	}
}

// say sends frames as a hostile guest would.
type say func(w *proto.Writer)

func entry(kind proto.EntryKind, name string, size int64) say {
	return func(w *proto.Writer) {
		e := proto.Entry{Kind: kind, Name: []byte(name), Size: size, Mode: 0o6777}
		if kind == proto.EntryLink {
			e.Target = []byte("/etc")
		}
		w.JSON(proto.TypeEntry, e)
	}
}

func data(text string) say {
	return func(w *proto.Writer) { w.Frame(proto.TypeFileData, []byte(text)) }
}
func hole(n uint64) say    { return func(w *proto.Writer) { w.Uint64(proto.TypeHole, n) } }
func end(w *proto.Writer)  { w.Frame(proto.TypeEntryEnd, nil) }
func over(w *proto.Writer) { w.JSON(proto.TypeTreeEnd, proto.Reply{}) }
func raw(kind proto.Type, text string) say {
	return func(w *proto.Writer) { w.Frame(kind, []byte(text)) }
}

func TestHostileSender(t *testing.T) {
	dir := entry(proto.EntryDir, "top", 0)
	for name, frames := range map[string][]say{
		"dot dot":             {dir, entry(proto.EntryFile, "..", 0), end, end, over},
		"path":                {dir, entry(proto.EntryFile, "../../evil", 0), end, end, over},
		"absolute":            {dir, entry(proto.EntryFile, "/etc/evil", 0), end, end, over},
		"no name":             {dir, entry(proto.EntryDir, "", 0), end, end, over},
		"zero byte":           {dir, entry(proto.EntryFile, "a\x00b", 0), end, end, over},
		"long name":           {dir, entry(proto.EntryFile, strings.Repeat("n", 256), 0), end, end, over},
		"through a link":      {dir, entry(proto.EntryLink, "l", 0), entry(proto.EntryDir, "l", 0), entry(proto.EntryFile, "evil", 0), end, end, end, over},
		"a part's name":       {dir, entry(proto.EntryLink, ".0.banger-part", 0), end, over},
		"more than its size":  {entry(proto.EntryFile, "f", 3), data("four"), end, over},
		"hole beyond":         {entry(proto.EntryFile, "f", 3), hole(4), end, over},
		"endless hole":        {entry(proto.EntryFile, "f", 1<<62), raw(proto.TypeHole, "\xff\xff\xff\xff\xff\xff\xff\xff"), end, over},
		"empty hole":          {entry(proto.EntryFile, "f", 3), hole(0), end, over},
		"holes that overflow": {entry(proto.EntryFile, "f", -1), hole(1<<63 - 1), hole(1<<63 - 1), end, over},
		"negative size":       {entry(proto.EntryFile, "f", -2), end, over},
		"unknown kind":        {entry("device", "f", 0), end, over},
		"data of no file":     {dir, data("x"), end, over},
		"ends twice":          {entry(proto.EntryFile, "f", 0), end, end, over},
		"ends too early":      {dir, over},
		"two trees":           {entry(proto.EntryFile, "f", 0), end, entry(proto.EntryFile, "g", 0), end, over},
		"other frames":        {raw(proto.TypeStdout, "x")},
		"no JSON":             {raw(proto.TypeEntry, "{")},
		"its own error": {dir, func(w *proto.Writer) {
			w.JSON(proto.TypeTreeEnd, proto.Reply{Error: &proto.Error{Message: "\x1b[2Jno"}})
		}},
		"nothing": {},
	} {
		t.Run(name, func(t *testing.T) {
			above := t.TempDir()
			check(t, os.Mkdir(above+"/to", 0o755))
			here, there := wire(t)
			go func() {
				w := proto.NewWriter(here)
				for _, f := range frames {
					f(w)
				}
				here.(*net.UnixConn).CloseWrite()
			}()
			target, err := filetree.Into(above+"/to", "name")
			check(t, err)
			defer target.Close()
			_, err = target.Receive(there, quiet)
			if err == nil || strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%v", err)
			}
			for _, line := range list(t, above) {
				if !strings.HasPrefix(line, `"/to`) || strings.Contains(line, "part") {
					t.Errorf("written: %s", line)
				}
			}
		})
	}
}

func TestManyNotesAreBounded(t *testing.T) {
	here, there := wire(t)
	go func() {
		w := proto.NewWriter(here)
		entry(proto.EntryDir, "d", 0)(w)
		for range 5000 {
			w.JSON(proto.TypeNote, proto.Note{Path: []byte("x"), Why: "\x1b[31mred"})
		}
		end(w)
		over(w)
	}()
	target, err := filetree.Into(t.TempDir(), "d")
	check(t, err)
	defer target.Close()
	got, err := target.Receive(there, quiet)
	check(t, err)
	if len(got.Notes) != filetree.MaxNotes || got.Unnoted != 5000-filetree.MaxNotes || got.Notes[0].Why != "[31mred" {
		t.Errorf("%d notes, %d more", len(got.Notes), got.Unnoted)
	}
}

func TestAFullDiskIsToldWithNumbers(t *testing.T) {
	here, there := wire(t)
	target, err := filetree.Into(t.TempDir(), "d")
	check(t, err)
	defer target.Close()
	target.Reserve = 1 << 62
	go filetree.SendStream(here, "d", 0o600, io.LimitReader(strings.NewReader(strings.Repeat("x", 1<<20)), 1<<20), quiet)
	if _, err := target.Receive(there, quiet); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "MiB are free") {
		t.Errorf("%v", err)
	}
}

func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir + "/new": "", dir: "", dir + "/": "", dir + "/none/": "no directory", dir + "/none/x": "no directory " + dir + "/none", "": "no path",
	} {
		target, err := filetree.Into(path, "base")
		if err == nil {
			target.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	if _, err := filetree.Open("/dev/null"); err == nil {
		t.Error("a device was opened")
	}
	if _, err := filetree.Open(dir + "/none"); err == nil || err.Error() != "there is no file or directory "+dir+"/none" {
		t.Errorf("what is not there: %v", err)
	}
}

func TestWhatIsNoFileStays(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	check(t, unix.Mkfifo(pipe, 0o600))
	check(t, os.Symlink(pipe, filepath.Join(dir, "link")))
	for _, path := range []string{pipe, filepath.Join(dir, "link"), "/dev/null"} {
		if _, err := filetree.Into(path, "file"); err == nil || !strings.Contains(err.Error(), path+" is there") {
			t.Errorf("a copy to %s: %v", path, err)
		}
	}
	from := filepath.Join(t.TempDir(), filepath.Base(dir))
	put(t, filepath.Join(from, "pipe"), "a file by the same name", 0o600)
	if _, _, _, err := copyTree(t, from, filepath.Dir(dir)); err == nil || !strings.Contains(err.Error(), "pipe is there") {
		t.Errorf("a tree with a file by the pipe's name: %v", err)
	}
	if info, err := os.Lstat(pipe); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("the pipe is %v, %v", info, err)
	}
}

// FuzzReceive gives a receiver any bytes: it comes to an end, and writes
// nothing outside.
func FuzzReceive(f *testing.F) {
	seed := func(frames ...say) {
		var b bytes.Buffer
		w := proto.NewWriter(&b)
		for _, frame := range frames {
			frame(w)
		}
		f.Add(b.Bytes())
	}
	seed(entry(proto.EntryDir, "d", 0), entry(proto.EntryFile, "f", 5), data("bytes"), end, entry(proto.EntryLink, "l", 0), end, over)
	seed(entry(proto.EntryFile, "f", 9<<20), hole(9<<20), end, over)
	seed(entry(proto.EntryFile, "..", -1), data("x"), end, over)
	f.Fuzz(func(t *testing.T, input []byte) {
		above := t.TempDir()
		check(t, os.Mkdir(above+"/to", 0o755))
		target, err := filetree.Into(above+"/to", "name")
		check(t, err)
		defer target.Close()
		target.Receive(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(input), io.Discard}, quiet)
		if entries, _ := os.ReadDir(above); len(entries) != 1 {
			t.Fatalf("written: %v", entries)
		}
	})
}

// What is not kept stays behind without a word, and is not even looked into.
func TestOnlyWhatIsKeptGoes(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "tree"), t.TempDir()
	for _, name := range []string{"a", "b/a", "b/c/d", "no/such/thing"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(from, name), nil, 0o644))
	}
	here, there := wire(t)
	source, err := filetree.Open(from)
	check(t, err)
	defer source.Close()
	var asked []string
	source.Keep = func(path string, dir bool) bool {
		asked = append(asked, fmt.Sprintf("%s %v", path, dir))
		return path != "no" && path != "b/a"
	}
	target, err := filetree.Into(to, "tree")
	check(t, err)
	defer target.Close()
	sent := make(chan filetree.Summary, 1)
	go func() {
		s, err := source.Send(here, "tree", quiet)
		if err != nil {
			t.Error(err)
		}
		sent <- s
	}()
	_, err = target.Receive(there, quiet)
	check(t, err)
	if s := <-sent; s.Files != 2 || len(s.Notes) > 0 {
		t.Errorf("sent %+v", s)
	}
	for path, there := range map[string]bool{"a": true, "b/c/d": true, "b/a": false, "no": false} {
		if _, err := os.Stat(filepath.Join(to, "tree", path)); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	slices.Sort(asked)
	if diff := cmp.Diff([]string{"a false", "b true", "b/a false", "b/c true", "b/c/d false", "no true"}, asked); diff != "" {
		t.Error(diff)
	}
}
