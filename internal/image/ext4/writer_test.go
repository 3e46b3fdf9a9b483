package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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
