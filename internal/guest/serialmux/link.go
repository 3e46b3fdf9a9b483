package serialmux

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"sync"
)

// link is one byte pipe and the session of its present epoch.
type link struct {
	pipe  io.ReadWriteCloser
	in    *bufio.Reader
	ready chan struct{} // a session has something to send
	done  chan struct{} // the pipe is closed

	mu      sync.Mutex
	current *Mux
	opening []byte // what is to be sent before any frame of the session
	err     error
}

func newLink(pipe io.ReadWriteCloser) *link {
	return &link{
		pipe:  pipe,
		in:    bufio.NewReaderSize(pipe, 2*maxFrame),
		ready: make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
}

// Host begins a new epoch over pipe, as its host end, and owns pipe from now
// on. Streams can be dialled at once; they wait until the guest is there.
func Host(pipe io.ReadWriteCloser) *Mux {
	l := newLink(pipe)
	m := newMux(l, randomEpoch(), hostFirstID)
	l.current = m
	l.opening = head{epoch: m.epoch, kind: frameOpen}.append(make([]byte, maxFrame))
	l.wake()
	go l.write()
	go func() { l.close(l.read(l.hostFrame)) }()
	return m
}

// Guest is the guest end of pipe: it calls handler, in a goroutine of its own,
// with a new Mux for each epoch that the host begins. It returns when pipe
// fails, with pipe's error, having closed pipe and the last Mux.
func Guest(pipe io.ReadWriteCloser, handler func(*Mux)) error {
	l := newLink(pipe)
	go l.write()
	err := l.read(func(h head, payload []byte) { l.guestFrame(h, payload, handler) })
	l.close(err)
	return err
}

// randomEpoch is never 0, which is no epoch.
func randomEpoch() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:])
		if epoch := binary.BigEndian.Uint64(b[:]); epoch != 0 {
			return epoch
		}
	}
}

// read hands each frame to take until the pipe fails. The payload is valid
// during the call.
func (l *link) read(take func(head, []byte)) error {
	for {
		h, err := l.nextHead()
		if err != nil {
			return err
		}
		payload, err := l.in.Peek(h.length)
		if err != nil {
			return err
		}
		take(h, payload)
		if _, err := l.in.Discard(h.length); err != nil {
			return err
		}
	}
}

// nextHead finds the next head, over whatever lies before it.
func (l *link) nextHead() (head, error) {
	for {
		p, err := l.in.Peek(headLen)
		if err != nil {
			return head{}, err
		}
		if h, ok := parseHead(p); ok {
			_, err := l.in.Discard(headLen)
			return h, err
		}
		if _, err := l.in.Discard(notMagic(p)); err != nil {
			return head{}, err
		}
	}
}

// notMagic is how many bytes at the front of p, at least one, can't begin a head.
func notMagic(p []byte) int {
	for i := 1; i < len(p); i++ {
		if p[i] == byte(magic>>24) {
			return i
		}
	}
	return len(p)
}

func (l *link) hostFrame(h head, payload []byte) {
	m := l.present()
	switch {
	case h.epoch != m.epoch:
	case h.kind == frameOpened:
		m.open()
	case h.kind == frameOpen:
		m.fail(ErrPeer)
	default:
		m.frame(h, payload)
	}
}

func (l *link) guestFrame(h head, payload []byte, handler func(*Mux)) {
	m := l.present()
	switch {
	case h.kind == frameOpen:
		l.renew(h.epoch, handler)
	case m == nil || h.epoch != m.epoch:
	case h.kind == frameOpened:
		m.fail(ErrPeer)
	default:
		m.frame(h, payload)
	}
}

// renew ends the present session and begins one in epoch.
func (l *link) renew(epoch uint64, handler func(*Mux)) {
	m := newMux(l, epoch, guestFirstID)
	l.mu.Lock()
	old := l.current
	l.current = m
	l.opening = head{epoch: epoch, kind: frameOpened}.append(nil)
	l.mu.Unlock()
	if old != nil {
		old.fail(ErrEpoch)
	}
	m.open()
	l.wake()
	go handler(m)
}

func (l *link) present() *Mux {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// wake tells the writer that there is something to send.
func (l *link) wake() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// write sends what the sessions have, several frames with one write, until the
// link is closed.
func (l *link) write() {
	buf := make([]byte, 0, 2*maxTurn)
	for {
		buf = l.collect(buf[:0])
		if len(buf) == 0 {
			select {
			case <-l.ready:
				continue
			case <-l.done:
				return
			}
		}
		if err := writeAll(l.pipe, buf); err != nil {
			l.close(err)
			return
		}
	}
}

// collect appends to buf what is to be sent now.
func (l *link) collect(buf []byte) []byte {
	l.mu.Lock()
	m := l.current
	buf = append(buf, l.opening...)
	l.opening = nil
	l.mu.Unlock()
	if m == nil {
		return buf
	}
	return m.collect(buf)
}

// writeAll writes in pieces that a virtio console takes whole.
func writeAll(w io.Writer, p []byte) error {
	for len(p) > 0 {
		n, err := w.Write(p[:min(len(p), maxFrame)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// close closes the pipe for the reason err, once.
func (l *link) close(err error) {
	l.mu.Lock()
	first := l.err == nil
	if first {
		l.err = err
		close(l.done)
	}
	m := l.current
	l.mu.Unlock()
	if !first {
		return
	}
	l.pipe.Close()
	if m != nil {
		m.fail(pipeError(err))
	}
}

// pipeError keeps an end of the pipe from looking like the end of a stream's
// data.
func pipeError(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
