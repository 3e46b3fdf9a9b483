package sessionlog

import (
	"errors"
	"io"
	"os"
	"time"
)

// ErrEnd says that there is nothing more, for now.
var ErrEnd = errors.New("the end of the log")

// Record is a piece of output, or of what is not kept any more.
type Record struct {
	Position uint64
	Time     time.Time
	Stream   byte
	Data     []byte // valid until the next call
	Lost     uint64 // so many bytes from Position on are lost; then there is no Data
}

// Reader reads a log in order. It is used by one goroutine.
type Reader struct {
	log    *Log
	next   uint64 // position of the next byte that is wanted
	file   *os.File
	start  uint64 // of the segment that file is
	at     uint64 // position of the record at offset
	offset int64
	buf    []byte
}

// Reader returns a Reader from a position on, which may lie anywhere.
func (l *Log) Reader(from uint64) *Reader {
	_, end := l.Range()
	return &Reader{log: l, next: min(from, end), buf: make([]byte, headLen+MaxRecord)}
}

// Position is that of the next byte.
func (r *Reader) Position() uint64 { return r.next }

// Next returns the next record, the first one from the wanted position on, or
// ErrEnd.
func (r *Reader) Next() (Record, error) {
	// While this is held nothing is dropped.
	r.log.mu.RLock()
	defer r.log.mu.RUnlock()
	for {
		if r.next >= r.log.end {
			return Record{}, ErrEnd
		}
		if start := r.log.start(); r.next < start {
			return r.lose(start), nil
		}
		if err := r.open(); err != nil {
			return Record{}, err
		}
		record, err := r.read()
		if errors.Is(err, errRecord) {
			return r.lose(r.segmentEnd()), nil
		}
		if err != nil {
			return Record{}, err
		}
		if len(record.Data) > 0 {
			return record, nil
		}
	}
}

// lose goes on at a position that is kept.
func (r *Reader) lose(to uint64) Record {
	lost := Record{Position: r.next, Lost: to - r.next}
	r.next = to
	r.Close()
	return lost
}

// segmentEnd is where the segment that is read ends.
func (r *Reader) segmentEnd() uint64 {
	for _, s := range r.log.segments {
		if s.start > r.start {
			return s.start
		}
	}
	return r.log.end
}

// open makes the file the segment of the next byte.
func (r *Reader) open() error {
	start := r.log.segments[0].start
	for _, s := range r.log.segments {
		if s.start <= r.next {
			start = s.start
		}
	}
	if r.file != nil && r.start == start {
		return nil
	}
	r.Close()
	f, err := os.Open(r.log.path(start))
	if err != nil {
		return err
	}
	r.file, r.start, r.at, r.offset = f, start, start, 0
	return nil
}

// read reads the record at offset. It has no data if it lies before the next
// byte.
func (r *Reader) read() (Record, error) {
	n, err := r.file.ReadAt(r.buf[:headLen], r.offset)
	if n < headLen {
		return Record{}, short(err)
	}
	at, stream, length, err := parseHead(r.buf)
	if err != nil {
		return Record{}, err
	}
	record := Record{Position: r.at, Time: at, Stream: stream}
	if end := r.at + uint64(length); end > r.next {
		skip := r.next - r.at
		data := r.buf[:length]
		if n, err := r.file.ReadAt(data, r.offset+headLen); n < length {
			return Record{}, short(err)
		}
		record.Position, record.Data = r.next, data[skip:]
		r.next = end
	}
	r.at += uint64(length)
	r.offset += int64(headLen + length)
	return record, nil
}

// short is why fewer bytes came than there should be.
func short(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return errRecord
	}
	return err
}

// Close lets go of the file; the next call of Next opens it again.
func (r *Reader) Close() {
	if r.file != nil {
		r.file.Close()
		r.file = nil
	}
}
