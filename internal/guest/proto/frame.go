package proto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Type is the first byte of a frame.
type Type byte

// The frame types, with their payloads.
const (
	TypeRequest Type = 1 // JSON of Request
	TypeReply   Type = 2 // JSON of Reply
	TypeEvent   Type = 3 // JSON of Event

	TypeStdin    Type = 16 // bytes
	TypeStdinEOF Type = 17 // nothing
	TypeResize   Type = 18 // rows u16, columns u16, big-endian
	TypeSignal   Type = 19 // number, one byte

	TypeStdout      Type = 32 // bytes
	TypeStderr      Type = 33 // bytes
	TypeExit        Type = 34 // status u32, big-endian
	TypeExecError   Type = 35 // JSON of ExecError
	TypeStdinCredit Type = 36 // bytes taken u32, big-endian

	TypeLog    Type = 48 // source ('k' or 'j'), then one line without its end
	TypeLogEnd Type = 49 // nothing: all lines there were

	TypeEntry     Type = 80 // JSON of Entry: begins a file, directory or link
	TypeFileData  Type = 81 // bytes of the open file
	TypeHole      Type = 82 // that many zero bytes of the open file u64, big-endian
	TypeEntryEnd  Type = 83 // nothing: the open file or directory is whole
	TypeNote      Type = 84 // JSON of Note
	TypeTreeEnd   Type = 85 // JSON of Reply: the sender has no more, or failed
	TypeResume    Type = 86 // where to begin the open file u64, big-endian
	TypeTreeTaken Type = 87 // JSON of Reply: the receiver's last word
)

// HeaderLen is the length of a frame's head: type, then length u32 big-endian.
const HeaderLen = 5

// bounds are the shortest and longest payload of each type; a type that is not
// here is no type.
var bounds = map[Type][2]int{
	TypeRequest:     {0, MaxJSON},
	TypeReply:       {0, MaxJSON},
	TypeEvent:       {0, MaxJSON},
	TypeStdin:       {0, MaxData},
	TypeStdinEOF:    {0, 0},
	TypeResize:      {4, 4},
	TypeSignal:      {1, 1},
	TypeStdout:      {0, MaxData},
	TypeStderr:      {0, MaxData},
	TypeExit:        {4, 4},
	TypeExecError:   {0, MaxJSON},
	TypeStdinCredit: {4, 4},
	TypeLog:         {1, 1 + MaxLine},
	TypeLogEnd:      {0, 0},
	TypeEntry:       {0, MaxEntry},
	TypeFileData:    {1, MaxData},
	TypeHole:        {8, 8},
	TypeEntryEnd:    {0, 0},
	TypeNote:        {0, MaxEntry},
	TypeTreeEnd:     {0, MaxEntry},
	TypeResume:      {8, 8},
	TypeTreeTaken:   {0, MaxEntry},

	TypeSessionData: {DataHead, DataHead + MaxData},
	TypeSessionLoss: {16, 16},
	TypeSessionLive: {8, 8},
	TypeSessionEnd:  {0, MaxJSON},
	TypeAttach:      {0, MaxJSON},
}

// Frame is one frame as it was read.
type Frame struct {
	Type    Type
	Payload []byte
}

// parseHeader checks a head and returns the payload's length.
func parseHeader(head []byte) (Type, int, error) {
	t := Type(head[0])
	n := binary.BigEndian.Uint32(head[1:HeaderLen])
	b, known := bounds[t]
	if !known {
		return 0, 0, fmt.Errorf("%w: frame of unknown type %d", ErrFrame, t)
	}
	if uint64(n) < uint64(b[0]) || uint64(n) > uint64(b[1]) {
		return 0, 0, fmt.Errorf("%w: frame of type %d with %d bytes", ErrFrame, t, n)
	}
	return t, int(n), nil
}

func putHeader(head []byte, t Type, n int) {
	head[0] = byte(t)
	binary.BigEndian.PutUint32(head[1:HeaderLen], uint32(n))
}

// ReadFrame reads exactly one frame and not a byte more, for connections that
// change hands after it. io.EOF means that the other end closed between frames.
func ReadFrame(r io.Reader) (Frame, error) {
	var head [HeaderLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Frame{}, err
	}
	t, n, err := parseHeader(head[:])
	if err != nil {
		return Frame{}, err
	}
	payload := make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return Frame{}, noEOF(err)
	}
	return Frame{t, payload}, nil
}

// noEOF turns an end of file within a frame into what it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readBuffer holds one full data frame while the next one arrives.
const readBuffer = 2 * (DataHead + MaxData + HeaderLen)

// Reader reads frames with few system calls and one buffer. It is used by one
// goroutine, and reads ahead.
type Reader struct {
	src        io.Reader
	buf        []byte
	start, end int
}

// NewReader returns a Reader of src.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Next returns the next frame. Its payload is valid until the next call. The
// error is io.EOF when the other end closed between frames, and wraps ErrFrame
// when what came is no frame.
func (r *Reader) Next() (Frame, error) {
	if err := r.fill(HeaderLen); err != nil {
		return Frame{}, err
	}
	t, n, err := parseHeader(r.buf[r.start:])
	if err != nil {
		return Frame{}, err
	}
	if err := r.fill(HeaderLen + n); err != nil {
		return Frame{}, noEOF(err)
	}
	payload := r.buf[r.start+HeaderLen : r.start+HeaderLen+n]
	r.start += HeaderLen + n
	return Frame{t, payload}, nil
}

// fill makes the buffer hold at least n bytes from start on.
func (r *Reader) fill(n int) error {
	if r.start == r.end {
		r.start, r.end = 0, 0
	}
	r.room(n)
	for r.end-r.start < n {
		got, err := r.src.Read(r.buf[r.end:])
		r.end += got
		if r.end-r.start >= n {
			return nil
		}
		if err != nil && r.end > r.start {
			return noEOF(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// room makes place for n bytes from start on: by moving them to the front, and
// for one of the rare long JSON frames by a larger buffer.
func (r *Reader) room(n int) {
	if r.buf == nil {
		r.buf = make([]byte, readBuffer)
	}
	if len(r.buf)-r.start >= n {
		return
	}
	to := r.buf
	if len(to) < n {
		to = make([]byte, n)
	}
	r.end = copy(to, r.buf[r.start:r.end])
	r.start, r.buf = 0, to
}

// Writer writes frames, each with one Write. Any goroutine may use it.
type Writer struct {
	mu  sync.Mutex
	dst io.Writer
	buf []byte
}

// NewWriter returns a Writer to dst.
func NewWriter(dst io.Writer) *Writer { return &Writer{dst: dst} }

// Frame writes one frame. A payload outside its type's bounds is refused.
func (w *Writer) Frame(t Type, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], 0, 0, 0, 0, 0)
	w.buf = append(w.buf, payload...)
	return w.send(t, w.buf)
}

// send writes a frame whose head is still empty.
func (w *Writer) send(t Type, frame []byte) error {
	putHeader(frame, t, len(frame)-HeaderLen)
	if _, _, err := parseHeader(frame); err != nil {
		return err
	}
	_, err := w.dst.Write(frame)
	return err
}

// JSON writes v as the payload of one frame.
func (w *Writer) JSON(t Type, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode a message of the guest link: %w", err)
	}
	return w.Frame(t, payload)
}

// Uint32 writes a frame of one number.
func (w *Writer) Uint32(t Type, n uint32) error {
	return w.Frame(t, binary.BigEndian.AppendUint32(nil, n))
}

// Uint64 writes a frame of one long number.
func (w *Writer) Uint64(t Type, n uint64) error {
	return w.Frame(t, binary.BigEndian.AppendUint64(nil, n))
}

var copyBuffers = sync.Pool{New: func() any { return new([HeaderLen + MaxData]byte) }}

// Copy sends all that src gives as data frames, until its end, and returns how
// many bytes that were. The error is src's or the connection's; src's io.EOF is
// none.
func (w *Writer) Copy(t Type, src io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[HeaderLen + MaxData]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := src.Read(buf[HeaderLen:])
		if n > 0 {
			if err := w.sendShared(t, buf[:HeaderLen+n]); err != nil {
				return total, err
			}
			total += int64(n)
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (w *Writer) sendShared(t Type, frame []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.send(t, frame)
}
