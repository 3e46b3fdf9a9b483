package sessionlog_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/banger-vm/banger/internal/guest/agent/sessionlog"
)

// octet is the byte that output has at a position.
func octet(position uint64) byte { return byte(position*7 + position>>8) }

func piece(from uint64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = octet(from + uint64(i))
	}
	return p
}

// failer is what checks need of a test.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// follow reads all there is, and looks whether it is what was written: in
// order, each byte once, or told to be lost.
func follow(t failer, r *sessionlog.Reader) (read, lost uint64) {
	t.Helper()
	for {
		before := r.Position()
		record, err := r.Next()
		if errors.Is(err, sessionlog.ErrEnd) {
			return read, lost
		}
		if err != nil {
			t.Fatalf("at %d: %v", before, err)
		}
		if record.Position != before || r.Position() != before+uint64(len(record.Data))+record.Lost || (record.Lost > 0) == (len(record.Data) > 0) {
			t.Fatalf("at %d came %d bytes at %d and %d lost, then %d", before, len(record.Data), record.Position, record.Lost, r.Position())
		}
		if !bytes.Equal(record.Data, piece(record.Position, len(record.Data))) {
			t.Fatalf("at %d came other bytes than were written", before)
		}
		if record.Lost == 0 && (record.Stream != 'o' && record.Stream != 'e' || record.Time.Unix() != int64(record.Stream)) {
			t.Fatalf("stream %q at %v", record.Stream, record.Time)
		}
		read += uint64(len(record.Data))
		lost += record.Lost
	}
}

// TestSegments writes pieces of any size, follows with readers that come and
// lag, and opens the log again: all in order, no gap that is not told, never
// more disk than the limit.
func TestSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "log")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		limit := rapid.Int64Range(0, 3*sessionlog.MinLimit).Draw(t, "limit")
		log, err := sessionlog.Open(dir, limit)
		if err != nil {
			t.Fatal(err)
		}
		total := uint64(0)
		always := log.Reader(0)
		lagging := log.Reader(0)
		var got, laggingGot uint64
		for range rapid.IntRange(1, 40).Draw(t, "pieces") {
			n := rapid.SampledFrom([]int{1, 2, 100, 5000, sessionlog.MaxRecord - 1, sessionlog.MaxRecord, sessionlog.MaxRecord + 1, 3 * sessionlog.MaxRecord}).Draw(t, "length")
			stream := rapid.SampledFrom([]byte{'o', 'e'}).Draw(t, "stream")
			if err := log.Append(stream, time.Unix(int64(stream), 0), piece(total, n)); err != nil {
				t.Fatal(err)
			}
			total += uint64(n)
			start, end := log.Range()
			if end != total || start > end {
				t.Fatalf("the log holds %d to %d of %d", start, end, total)
			}
			if used := onDisk(t, dir); used > max(limit, sessionlog.MinLimit) || used != log.Size() {
				t.Fatalf("%d bytes on disk, %d told, the limit is %d", used, log.Size(), limit)
			}
			switch rapid.SampledFrom([]string{"follow", "lag", "anywhere", "again", ""}).Draw(t, "deed") {
			case "follow":
				read, lost := follow(t, always)
				got += read + lost
			case "lag":
				read, lost := follow(t, lagging)
				laggingGot += read + lost
			case "anywhere":
				from := rapid.Uint64Range(0, total+10).Draw(t, "from")
				r := log.Reader(from)
				read, lost := follow(t, r)
				if min(from, total)+read+lost != total || lost != max(start, min(from, total))-min(from, total) {
					t.Fatalf("from %d: %d read, %d lost of %d to %d", from, read, lost, start, total)
				}
				r.Close()
			case "again":
				log.Close()
				always.Close()
				if log, err = sessionlog.Open(dir, limit); err != nil {
					t.Fatal(err)
				}
				always, lagging = log.Reader(always.Position()), log.Reader(lagging.Position())
			}
		}
		read, lost := follow(t, always)
		if got+read+lost != total {
			t.Fatalf("%d of %d bytes", got+read+lost, total)
		}
		read, lost = follow(t, lagging)
		if laggingGot+read+lost != total {
			t.Fatalf("%d of %d bytes", laggingGot+read+lost, total)
		}
		log.Close()
	})
}

func onDisk(t failer, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatalf("%v", err)
	}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatalf("%v", err)
		}
		total += info.Size()
	}
	return total
}

// TestTornEnd cuts and spoils the last segment, as a crash does, at every byte
// of its last record.
func TestTornEnd(t *testing.T) {
	write := func(t *testing.T) (dir, file string) {
		dir = t.TempDir()
		log, err := sessionlog.Open(dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		log.Append('o', time.Unix('o', 0), piece(0, 100))
		log.Append('e', time.Unix('e', 0), piece(100, 20))
		log.Close()
		return dir, filepath.Join(dir, "00000000000000000000")
	}
	for cut := range int64(13 + 20) {
		dir, file := write(t)
		if err := os.Truncate(file, 13+100+cut); err != nil {
			t.Fatal(err)
		}
		tornEnd(t, dir)
		dir, file = write(t)
		// A file that grew and whose bytes never came has zeros there.
		if err := errors.Join(os.Truncate(file, 13+100), os.Truncate(file, 13+100+13+cut)); err != nil {
			t.Fatal(err)
		}
		tornEnd(t, dir)
	}
}

func tornEnd(t *testing.T, dir string) {
	t.Helper()
	log, err := sessionlog.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, end := log.Range(); end != 100 {
		t.Fatalf("the end is %d", end)
	}
	if err := log.Append('o', time.Unix('o', 0), piece(100, 50)); err != nil {
		t.Fatal(err)
	}
	if read, lost := follow(t, log.Reader(0)); read != 150 || lost != 0 {
		t.Fatal(read, lost)
	}
	log.Close()
}

// TestSpoiltMiddle spoils a segment that is not the last one: what follows it
// is still read.
func TestSpoiltMiddle(t *testing.T) {
	dir := t.TempDir()
	log, err := sessionlog.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	for position := uint64(0); position < 100_000; position += 1000 {
		log.Append('o', time.Unix('o', 0), piece(position, 1000))
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[1], 5); err != nil {
		t.Fatal(err)
	}
	read, lost := follow(t, log.Reader(0))
	if read+lost != 100_000 || lost == 0 || lost > 40_000 {
		t.Fatal(read, lost)
	}
}

// TestFullDisk has a disk that is full: output goes on being taken, what could
// not be kept is told, and what comes when there is room again is kept.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	log, err := sessionlog.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	log.Append('o', time.Unix('o', 0), piece(0, 1000))
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 500, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	failed := log.Append('o', time.Unix('o', 0), piece(1000, 700))
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if failed == nil {
		t.Fatal("it was kept beyond what the disk takes")
	}
	if err := log.Append('e', time.Unix('e', 0), piece(1700, 300)); err != nil {
		t.Fatal(err)
	}
	if read, lost := follow(t, log.Reader(0)); read != 300 || lost != 1700 {
		t.Fatal(read, lost)
	}
}

// TestReadersBesideAWriter has readers at their own pace beside a writer that
// drops what they have not read.
func TestReadersBesideAWriter(t *testing.T) {
	log, err := sessionlog.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	const total = 8 << 20
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			r := log.Reader(0)
			defer r.Close()
			for r.Position() < total {
				follow(t, r)
			}
		})
	}
	for position := uint64(0); position < total; position += 4096 {
		if err := log.Append('o', time.Unix('o', 0), piece(position, 4096)); err != nil {
			t.Error(err)
			break
		}
	}
	readers.Wait()
}
