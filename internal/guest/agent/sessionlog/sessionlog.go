// Package sessionlog keeps what a session prints on disk, in order, and never
// more than so much of it: the oldest goes first.
//
// A log is a directory of segments, each a file that is named by the position
// of its first byte. Positions count the bytes of output of both streams, from
// the session's start. A segment is records, each with a head of 13 bytes,
// big-endian, and then data:
//
//	time i64, nanoseconds since 1970 | stream u8 | length of data u32
//
// Nothing is fsynced: after a crash of the machine the log ends earlier, at a
// whole record.
package sessionlog

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	headLen = 13
	// MaxRecord is the most data that one record holds.
	MaxRecord = 64 << 10
	// MinLimit is the least that a log may be given.
	MinLimit = 4 * (headLen + MaxRecord)
	// segments is how many segments fill a log: with more, less is dropped at
	// once.
	segments = 8
)

// Log is a session's output. Any goroutine may use it.
type Log struct {
	dir   string
	limit int64

	mu       sync.RWMutex
	segments []segment
	end      uint64   // position after the last byte
	last     *os.File // the last segment, open for appending; nil: the next append begins one
}

// segment is one file.
type segment struct {
	start uint64 // position of its first byte
	size  int64  // of the file
}

// Open opens the log in dir, which must exist, and keeps at most limit bytes of
// disk for it. What is no whole record at its end is cut off.
func Open(dir string, limit int64) (*Log, error) {
	l := &Log{dir: dir, limit: max(limit, MinLimit)}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot open the session's log: %w", err)
	}
	for _, e := range entries {
		start, err := strconv.ParseUint(e.Name(), 10, 64)
		info, statErr := e.Info()
		if err != nil || statErr != nil || e.Name() != l.name(start) {
			continue
		}
		l.segments = append(l.segments, segment{start, info.Size()})
	}
	slices.SortFunc(l.segments, func(a, b segment) int {
		if a.start < b.start {
			return -1
		}
		return 1
	})
	if len(l.segments) == 0 {
		return l, nil
	}
	return l, l.mend()
}

func (l *Log) name(start uint64) string { return fmt.Sprintf("%020d", start) }

func (l *Log) path(start uint64) string { return filepath.Join(l.dir, l.name(start)) }

// mend finds the end of the last segment.
func (l *Log) mend() error {
	last := &l.segments[len(l.segments)-1]
	f, err := os.OpenFile(l.path(last.start), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open the session's log: %w", err)
	}
	defer f.Close()
	size, end := int64(0), last.start
	for in := bufio.NewReader(f); ; {
		n, err := skipRecord(in)
		if err != nil {
			break // the end, or a record that is not whole
		}
		size += int64(headLen + n)
		end += uint64(n)
	}
	if size != last.size {
		if err := f.Truncate(size); err != nil {
			return fmt.Errorf("cannot mend the session's log: %w", err)
		}
	}
	last.size, l.end = size, end
	return nil
}

// errRecord says that there is no whole record.
var errRecord = errors.New("no whole record")

func skipRecord(in *bufio.Reader) (int, error) {
	var head [headLen]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, err
	}
	_, _, n, err := parseHead(head[:])
	if err != nil {
		return 0, err
	}
	_, err = in.Discard(n)
	return n, err
}

// parseHead reads a record's head.
func parseHead(head []byte) (at time.Time, stream byte, length int, err error) {
	n := binary.BigEndian.Uint32(head[9:])
	if head[8] == 0 || n == 0 || n > MaxRecord {
		return time.Time{}, 0, 0, errRecord
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(head))), head[8], int(n), nil
}

// Range is the positions of the first byte that is kept and after the last.
func (l *Log) Range() (start, end uint64) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.start(), l.end
}

func (l *Log) start() uint64 {
	if len(l.segments) == 0 {
		return l.end
	}
	return l.segments[0].start
}

// Size is how many bytes of disk the log takes.
func (l *Log) Size() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.size()
}

func (l *Log) size() int64 {
	total := int64(0)
	for _, s := range l.segments {
		total += s.size
	}
	return total
}

// Append adds data of a stream, which is not 0. Where the disk does not take
// it, all that the log holds is given up, and what is appended later has room:
// the error is for the record, positions go on.
func (l *Log) Append(stream byte, at time.Time, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var failed error
	for len(data) > 0 {
		n := min(len(data), MaxRecord)
		if err := l.append(stream, at, data[:n]); err != nil {
			l.giveUp()
			failed = fmt.Errorf("cannot keep a session's output: %w", err)
		}
		l.end += uint64(n)
		data = data[n:]
	}
	return failed
}

func (l *Log) append(stream byte, at time.Time, data []byte) error {
	record := binary.BigEndian.AppendUint64(make([]byte, 0, headLen+len(data)), uint64(at.UnixNano()))
	record = append(record, stream)
	record = binary.BigEndian.AppendUint32(record, uint32(len(data)))
	record = append(record, data...)
	if err := l.room(int64(len(record))); err != nil {
		return err
	}
	if _, err := l.last.Write(record); err != nil {
		return err
	}
	l.segments[len(l.segments)-1].size += int64(len(record))
	return nil
}

// room drops the oldest segments until n bytes fit, and begins a new segment
// when the last one is full.
func (l *Log) room(n int64) error {
	for len(l.segments) > 0 && l.size()+n > l.limit {
		if len(l.segments) == 1 {
			l.closeLast()
		}
		if err := l.drop(); err != nil {
			return err
		}
	}
	if l.last != nil && l.segments[len(l.segments)-1].size+n <= l.limit/segments {
		return nil
	}
	if l.last == nil && len(l.segments) > 0 && l.segments[len(l.segments)-1].start == l.end {
		// An empty one, after a restart or a failed write, has the name that
		// the new one would have.
		l.segments = l.segments[:len(l.segments)-1]
	}
	l.closeLast()
	f, err := os.OpenFile(l.path(l.end), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.last = f
	l.segments = append(l.segments, segment{start: l.end})
	return nil
}

// drop takes away the oldest segment. Its bytes are freed at once, whoever
// still has it open.
func (l *Log) drop() error {
	path := l.path(l.segments[0].start)
	_ = os.Truncate(path, 0) // removing it is what counts
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	l.segments = l.segments[1:]
	return nil
}

// giveUp takes away all there is.
func (l *Log) giveUp() {
	l.closeLast()
	for len(l.segments) > 0 {
		if l.drop() != nil {
			l.segments = l.segments[1:] // a disk that fails in every way; what is left is read by nobody
		}
	}
}

func (l *Log) closeLast() {
	if l.last != nil {
		l.last.Close()
		l.last = nil
	}
}

// Close ends appending. Readers go on.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeLast()
}
