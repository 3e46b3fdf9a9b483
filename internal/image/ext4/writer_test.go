package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

var testTime = time.Date(2024, 2, 29, 12, 34, 56, 789, time.UTC)

// written makes a filesystem with what fill puts into it, and checks it.
func written(t testing.TB, o WriterOptions, fill func(w *Writer) error) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	if o.UUID == [16]byte{} {
		o.UUID = [16]byte{1, 2, 3}
	}
	if o.Time.IsZero() {
		o.Time = testTime
	}
	w, err := Create(path, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := fill(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e2fs(t, "e2fsck", "-fn", path)
	return path
}

func attr(mode uint32) Attr { return Attr{Mode: mode, Mtime: testTime} }

func TestWriterSmall(t *testing.T) {
	path := written(t, WriterOptions{Label: "small"}, func(w *Writer) error {
		return w.File("etc/deep/file", attr(0o640), strings.NewReader("content\n"), 8)
	})
	if got := e2fs(t, "debugfs", "-R", "cat /etc/deep/file", path); !strings.HasSuffix(got, "content\n") {
		t.Errorf("the file holds %q", got)
	}
}

func TestWriterHuge(t *testing.T) {
	path := written(t, WriterOptions{Label: "small"}, func(w *Writer) error {
		for i := range 100000 {
			if err := w.File(fmt.Sprintf("huge/file-with-a-name-%d", i), attr(0o644), strings.NewReader("x"), 1); err != nil {
				return err
			}
		}
		return nil
	})
	if got := e2fs(t, "debugfs", "-R", "stat /huge", path); !strings.Contains(got, "Flags: 0x81000") {
		t.Errorf("the directory has no index: %s", got)
	}
}

func TestWriterBig(t *testing.T) {
	data := make([]byte, 64<<20)
	r := rand.NewChaCha8([32]byte{})
	r.Read(data)
	for i := 0; i < len(data); i += 4 * blockSize {
		clear(data[i : i+blockSize])
	}
	path := written(t, WriterOptions{Label: "small"}, func(w *Writer) error {
		for i := range 8 {
			if err := w.File(fmt.Sprint("big", i), attr(0o644), bytes.NewReader(data), int64(len(data))); err != nil {
				return err
			}
		}
		return nil
	})
	dump := filepath.Join(t.TempDir(), "big7")
	e2fs(t, "debugfs", "-R", "dump /big7 "+dump, path)
	if got, err := os.ReadFile(dump); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes come out differently: %v", len(got), err)
	}
}

// TestWriterLayout holds the same as TestLayout: features, room for
// descriptors, no inode table that the first mount would zero, and room to
// start in.
func TestWriterLayout(t *testing.T) {
	path := written(t, WriterOptions{Label: "layout"}, func(w *Writer) error { return nil })
	sb := head(t, path)[superOffset : superOffset+1024]
	le := binary.LittleEndian
	got := fmt.Sprintf("compat %#x incompat %#x ro %#x blocks 2^%d inodes of %d, %d reserved descriptors, %d for root",
		le.Uint32(sb[0x5C:]), le.Uint32(sb[0x60:]), le.Uint32(sb[0x64:]), 10+le.Uint32(sb[0x18:]), le.Uint16(sb[0x58:]),
		le.Uint16(sb[0xCE:]), le.Uint32(sb[0x8:]))
	want := "compat 0x3c incompat 0x2c2 ro 0x46b blocks 2^12 inodes of 256, 7 reserved descriptors, 0 for root"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for line := range strings.Lines(e2fs(t, "dumpe2fs", path)) {
		if strings.HasPrefix(line, "Group ") && strings.Contains(line, "(Blocks") && !strings.Contains(line, "ITABLE_ZEROED") {
			t.Errorf("not zeroed: %s", line)
		}
	}
	info, err := Read(path)
	if err != nil || info.Label != "layout" || info.Size != 384<<20 {
		t.Errorf("it reads as %+v, %v", info, err)
	}
	stat, err := os.Stat(path)
	if err != nil || stat.Size() != info.Size || stat.Sys().(*syscall.Stat_t).Blocks > 1<<20/512 {
		t.Errorf("the file: %+v, %v", stat.Sys(), err)
	}
}

func TestWriterIsDeterministic(t *testing.T) {
	make1 := func() []byte {
		path := written(t, WriterOptions{}, func(w *Writer) error {
			for i := range 500 {
				name := fmt.Sprintf("dir/%d/%s", i%7, strings.Repeat("n", i%200+1))
				a := Attr{Xattrs: map[string][]byte{"user.a": []byte("1"), "user.b": []byte("2"), "user.c": bytes.Repeat([]byte("3"), 100)}}
				if err := w.File(name, a, strings.NewReader(name), int64(len(name))); err != nil {
					return err
				}
			}
			return nil
		})
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if !bytes.Equal(make1(), make1()) {
		t.Error("the same calls give other bytes")
	}
}

func TestWriterRefuses(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 5000)
	xattr := func(name string, value []byte) Attr { return Attr{Xattrs: map[string][]byte{name: value}} }
	file := func(w *Writer, path string) error { return w.File(path, Attr{}, strings.NewReader("x"), 1) }
	tests := []struct {
		name string
		call func(w *Writer) error
		want error
	}{
		{"up", func(w *Writer) error { return file(w, "../a") }, ErrName},
		{"up inside", func(w *Writer) error { return w.Mkdir("a/../b", Attr{}) }, ErrName},
		{"nul", func(w *Writer) error { return file(w, "a\x00b") }, ErrName},
		{"long name", func(w *Writer) error { return file(w, strings.Repeat("n", 256)) }, ErrNameTooLong},
		{"long path", func(w *Writer) error { return file(w, strings.Repeat("n/", 2048)) }, ErrNameTooLong},
		{"long target", func(w *Writer) error { return w.Symlink("a", strings.Repeat("n", 4096), Attr{}) }, ErrNameTooLong},
		{"no target", func(w *Writer) error { return w.Symlink("a", "", Attr{}) }, ErrName},
		{"through a file", func(w *Writer) error { return file(w, "there/a") }, ErrNotDirectory},
		{"root as a file", func(w *Writer) error { return file(w, "/") }, ErrIsDirectory},
		{"root as a link", func(w *Writer) error { return w.Link("there", ".") }, ErrIsDirectory},
		{"root away", func(w *Writer) error { return w.Remove("") }, ErrIsDirectory},
		{"link to nothing", func(w *Writer) error { return w.Link("nothing", "a") }, fs.ErrNotExist},
		{"link to a directory", func(w *Writer) error { return w.Link("/", "a") }, ErrIsDirectory},
		{"node of a file", func(w *Writer) error { return w.Node("a", Attr{Mode: modeRegular}) }, ErrAttr},
		{"wide device", func(w *Writer) error { return w.Node("a", Attr{Mode: modeChar, Major: 1 << 12}) }, ErrAttr},
		{"unknown xattr", func(w *Writer) error { return w.Mkdir("a", xattr("other.a", nil)) }, ErrXattr},
		{"nameless xattr", func(w *Writer) error { return w.Mkdir("a", xattr("user.", nil)) }, ErrXattr},
		{"large xattr", func(w *Writer) error { return w.Mkdir("a", xattr("user.a", big)) }, ErrXattr},
		{"wrong acl", func(w *Writer) error { return w.Mkdir("a", xattr("system.posix_acl_access", []byte("no list"))) }, ErrXattr},
		{"cut off", func(w *Writer) error { return w.File("a", Attr{}, strings.NewReader("x"), 2) }, io.ErrUnexpectedEOF},
	}
	written(t, WriterOptions{}, func(w *Writer) error {
		if err := file(w, "there"); err != nil {
			return err
		}
		for _, test := range tests {
			if err := test.call(w); !errors.Is(err, test.want) {
				t.Errorf("%s: got %v", test.name, err)
			}
		}
		if w.entries != 1 || w.blocks.content != 1 {
			t.Errorf("%d entries, %d blocks are left", w.entries, w.blocks.content)
		}
		return nil
	})
}

func TestWriterLimits(t *testing.T) {
	written(t, WriterOptions{MaxBytes: 1 << 20, MaxEntries: 10}, func(w *Writer) error {
		var limit *LimitError
		data := bytes.Repeat([]byte("x"), 1<<20)
		if err := w.File("whole", Attr{}, bytes.NewReader(data), 1<<20); err != nil {
			return err
		}
		if err := w.File("more", Attr{}, strings.NewReader("x"), 1); !errors.As(err, &limit) || limit.Limit != 1<<20 {
			t.Errorf("a block more: %v", err)
		}
		if err := w.Remove("whole"); err != nil {
			return err
		}
		if err := w.File("zeros", Attr{}, strings.NewReader(""), 1<<50); !errors.As(err, &limit) {
			t.Errorf("an absurd size: %v", err)
		}
		for i := range 9 {
			if err := w.File(fmt.Sprint(i), Attr{}, strings.NewReader("x"), 1); err != nil {
				return err
			}
		}
		if err := w.Mkdir("a/b", Attr{}); !errors.As(err, &limit) || limit.What != "entries" {
			t.Errorf("an entry more: %v", err)
		}
		return w.Remove("a")
	})
	for _, o := range []WriterOptions{{MaxBytes: -1}, {MaxBytes: 1 << 60}, {MaxEntries: -1}, {Label: strings.Repeat("l", 17)}} {
		if _, err := Create(filepath.Join(t.TempDir(), "x"), o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

func TestWriterBoundsMetadata(t *testing.T) {
	w, err := Create(filepath.Join(t.TempDir(), "x"), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	w.maxMetadata = 1 << 20
	target := strings.Repeat("t", maxPath)
	for i := range 300 {
		if err = w.Symlink(fmt.Sprint(i), target, Attr{}); err != nil {
			break
		}
	}
	var limit *LimitError
	if !errors.As(err, &limit) || limit.What != "bytes of metadata" {
		t.Errorf("got %v", err)
	}
}

func TestWriterLinks(t *testing.T) {
	written(t, WriterOptions{}, func(w *Writer) error {
		if err := w.File("0", Attr{}, strings.NewReader("x"), 1); err != nil {
			return err
		}
		for i := 1; i < maxLinks; i++ {
			if err := w.Link("0", fmt.Sprint(i)); err != nil {
				return err
			}
		}
		if err := w.Link("0", "more"); !errors.Is(err, ErrTooManyLinks) {
			t.Errorf("got %v", err)
		}
		for i := range maxLinks {
			if err := w.Mkdir(fmt.Sprint("directories/", i), Attr{}); err != nil {
				return err
			}
		}
		return nil
	})
}

func TestWriterAbort(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	w, err := Create(path, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(path, WriterOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a file that is there: %v", err)
	}
	if err := errors.Join(w.Abort(), w.Abort()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

// TestWriterReuses writes and removes more than the filesystem may have.
func TestWriterReuses(t *testing.T) {
	data := make([]byte, 10<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	path := written(t, WriterOptions{MaxBytes: 20 << 20}, func(w *Writer) error {
		for i := range 50 {
			if err := w.File("big", Attr{}, bytes.NewReader(data), int64(len(data)-i)); err != nil {
				return err
			}
		}
		return w.Remove("big")
	})
	stat, err := os.Stat(path)
	if err != nil || stat.Sys().(*syscall.Stat_t).Blocks > 1<<20/512 {
		t.Errorf("the file keeps what was removed: %+v, %v", stat.Sys(), err)
	}
}

// TestWriterMemory holds what files cost: half a million are to need less than
// 150 MiB.
func TestWriterMemory(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	w, err := Create(filepath.Join(t.TempDir(), "x"), WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	const files = 100_000
	content := strings.NewReader("")
	for i := range files {
		content.Reset("x")
		if err := w.File(fmt.Sprintf("usr/lib/package-%d/file-with-a-name-%d.py", i/20, i), attr(0o644), content, 1); err != nil {
			t.Fatal(err)
		}
	}
	if each := (heap() - before) / files; each > 150<<20/500_000 {
		t.Errorf("%d bytes each", each)
	} else {
		t.Logf("%d bytes each", each)
	}
	runtime.KeepAlive(w)
}

func BenchmarkWriter(b *testing.B) {
	data := make([]byte, 64<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	b.SetBytes(int64(len(data)))
	path := filepath.Join(b.TempDir(), "x")
	for b.Loop() {
		w, err := Create(path, WriterOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if err := w.File("big", Attr{}, bytes.NewReader(data), int64(len(data))); err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(w.Close(), os.Remove(path)); err != nil {
			b.Fatal(err)
		}
	}
}
