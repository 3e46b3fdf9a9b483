package serialmux

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// maxTurn bounds what one stream sends in its turn: the frames without data
// (syn, ack, credit, end or close or reset), and one of data.
const maxTurn = 4*(headLen+4) + maxFrame

// Stream is one connection of a Mux, a net.Conn with CloseWrite. All its state
// is guarded by the mutex of its Mux.
type Stream struct {
	mux     *Mux
	id      uint32
	port    uint32
	changed *sync.Cond // broadcast on every change that a Read, Write or Dial may wait for

	accepted bool // by the other end, or by us
	err      error
	received ring
	taken    uint32 // bytes read and not credited yet
	peerEnd  bool   // no more data comes
	peerGone bool   // nor is any read there

	sending []byte // the unsent rest of the Write that is under way
	credit  uint32
	writing sync.Mutex // held by the Write that is under way

	closed    bool // Close was called
	ended     bool // CloseWrite was called
	queued    bool
	sendSyn   bool
	sendAck   bool
	sendEnd   bool
	sendClose bool
	sendReset bool

	readBy, writeBy deadline
}

func newStream(m *Mux, id, port uint32) *Stream {
	s := &Stream{mux: m, id: id, port: port, credit: window}
	s.changed = sync.NewCond(&m.mu)
	return s
}

// frame takes one frame for s, and returns false if it breaks the rules.
func (s *Stream) frame(kind frameType, payload []byte) bool {
	defer s.changed.Broadcast()
	switch kind {
	case frameAck:
		s.accepted = true
	case frameData:
		return s.data(payload)
	case frameCredit:
		return s.grant(payload)
	case frameEnd:
		s.peerEnd = true
		s.forgetIfOver()
	case frameClose:
		s.peerEnd, s.peerGone = true, true
		s.forgetIfOver()
	case frameReset:
		s.err = ErrReset
		if !s.accepted {
			s.err = ErrRefused
		}
		s.mux.remove(s)
	default:
		return false
	}
	return true
}

func (s *Stream) data(payload []byte) bool {
	if s.peerEnd || s.received.len()+int(s.taken)+len(payload) > window {
		return false
	}
	s.received.write(payload)
	return true
}

func (s *Stream) grant(payload []byte) bool {
	if len(payload) != 4 {
		return false
	}
	n := binary.BigEndian.Uint32(payload)
	if n > window || s.credit+n > window {
		return false
	}
	s.credit += n
	if len(s.sending) > 0 {
		s.mux.enqueue(s)
	}
	return true
}

// forgetIfOver takes s out of its Mux when no frame for it can come that
// matters: the peer has ended, and so have we.
func (s *Stream) forgetIfOver() {
	if s.peerEnd && (s.ended || s.closed) && !s.sendEnd && !s.sendClose {
		s.mux.remove(s)
	}
}

// collect appends what s has to send. Its order is that of a stream's life.
func (s *Stream) collect(buf []byte) []byte {
	buf = s.collectBegin(buf)
	if s.sendReset {
		s.sendReset = false
		s.mux.remove(s)
		return s.head(frameReset, 0).append(buf)
	}
	if s.taken >= maxPayload {
		buf = s.number(frameCredit, s.taken, buf)
		s.taken = 0
	}
	buf = s.collectData(buf)
	return s.collectEnd(buf)
}

func (s *Stream) collectBegin(buf []byte) []byte {
	if s.sendSyn {
		s.sendSyn = false
		buf = s.number(frameSyn, s.port, buf)
	}
	if s.sendAck {
		s.sendAck = false
		buf = s.head(frameAck, 0).append(buf)
	}
	return buf
}

func (s *Stream) collectData(buf []byte) []byte {
	n := min(len(s.sending), int(s.credit), maxPayload)
	if n == 0 {
		return buf
	}
	buf = append(s.head(frameData, n).append(buf), s.sending[:n]...)
	s.sending = s.sending[n:]
	s.credit -= uint32(n)
	if len(s.sending) == 0 {
		s.changed.Broadcast()
	} else if s.credit > 0 {
		s.mux.enqueue(s)
	}
	return buf
}

func (s *Stream) collectEnd(buf []byte) []byte {
	switch {
	case s.sendClose:
		buf = s.head(frameClose, 0).append(buf)
		s.sendClose, s.sendEnd = false, false
		s.mux.remove(s)
	case s.sendEnd:
		buf = s.head(frameEnd, 0).append(buf)
		s.sendEnd = false
		s.forgetIfOver()
	}
	return buf
}

func (s *Stream) head(kind frameType, length int) head {
	return head{epoch: s.mux.epoch, kind: kind, length: length, stream: s.id}
}

func (s *Stream) number(kind frameType, n uint32, buf []byte) []byte {
	return binary.BigEndian.AppendUint32(s.head(kind, 4).append(buf), n)
}

// accept tells the dialler, once, that its stream was taken. m.mu is held.
func (s *Stream) accept() {
	if s.mux.isTheirs(s.id) && !s.accepted {
		s.accepted, s.sendAck = true, true
		s.mux.enqueue(s)
	}
}

func (s *Stream) waitAccepted(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.mux.mu.Lock()
		defer s.mux.mu.Unlock()
		s.changed.Broadcast()
	})
	defer stop()
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	for !s.accepted && s.err == nil && ctx.Err() == nil {
		s.changed.Wait()
	}
	switch {
	case s.err != nil:
		return s.err
	case !s.accepted:
		return context.Cause(ctx)
	}
	return nil
}

// abort breaks the stream off.
func (s *Stream) abort() {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.closed = true
	if s.err == nil {
		s.err = net.ErrClosed
		s.sendReset = true
		s.mux.enqueue(s)
	}
	s.changed.Broadcast()
}

// Read reads what the other end wrote: io.EOF after its CloseWrite or Close.
func (s *Stream) Read(p []byte) (int, error) {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.accept()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case len(p) == 0:
			return 0, nil
		case s.received.len() > 0:
			return s.take(p), nil
		case s.err != nil:
			return 0, s.err
		case s.peerEnd:
			return 0, io.EOF
		case s.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
		s.changed.Wait()
	}
}

// take moves received bytes to p, and credits them to the peer when they are
// worth a frame.
func (s *Stream) take(p []byte) int {
	n := s.received.read(p)
	s.taken += uint32(n)
	if s.taken >= maxPayload && !s.peerEnd {
		s.mux.enqueue(s)
	}
	return n
}

// Write returns when all of p is on its way, or the stream is over.
func (s *Stream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.accept()
	s.sending = p
	defer func() { s.sending = nil }()
	if len(p) > 0 && s.credit > 0 && s.writeError() == nil {
		s.mux.enqueue(s)
	}
	for {
		if len(s.sending) == 0 {
			return len(p), nil
		}
		if err := s.writeError(); err != nil {
			return len(p) - len(s.sending), err
		}
		s.changed.Wait()
	}
}

func (s *Stream) writeError() error {
	switch {
	case s.closed || s.ended:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	case s.peerGone:
		return ErrReset
	case s.writeBy.passed():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// CloseWrite tells the other end that no more data comes; reading goes on.
func (s *Stream) CloseWrite() error {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.accept()
	if s.closed || s.ended || s.err != nil {
		return nil
	}
	s.ended, s.sendEnd = true, true
	s.mux.enqueue(s)
	s.changed.Broadcast()
	return nil
}

// Close ends both directions; what was written before still arrives. A stream
// of the other end's that was neither read nor written yet is refused.
func (s *Stream) Close() error {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	s.received = ring{}
	s.changed.Broadcast()
	switch {
	case s.err != nil:
	case !s.accepted:
		s.sendReset = true
		s.mux.enqueue(s)
	default:
		s.sendClose = true
		s.mux.enqueue(s)
	}
	return nil
}

// LocalAddr and RemoteAddr name the stream's port.
func (s *Stream) LocalAddr() net.Addr { return Addr(s.port) }

// RemoteAddr is the same as LocalAddr: a stream has one port.
func (s *Stream) RemoteAddr() net.Addr { return Addr(s.port) }

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	s.set(&s.readBy, t)
	s.set(&s.writeBy, t)
	return nil
}

// SetReadDeadline bounds present and future Reads.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.set(&s.readBy, t)
	return nil
}

// SetWriteDeadline bounds present and future Writes.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.set(&s.writeBy, t)
	return nil
}

// deadline is a moment, and the timer that wakes who waits then.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (s *Stream) set(d *deadline, t time.Time) {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	d.at = t
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), s.wakeWaiters)
	}
	s.changed.Broadcast()
}

func (s *Stream) wakeWaiters() {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.changed.Broadcast()
}

// Addr is a port of the link.
type Addr uint32

// Network is "serialmux".
func (Addr) Network() string { return "serialmux" }

func (a Addr) String() string { return fmt.Sprintf("port %d", uint32(a)) }
