package serialmux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
)

// The host numbers its streams with the odd ids, the guest with the even ones.
const (
	hostFirstID  uint32 = 1
	guestFirstID uint32 = 2
)

// Mux is one epoch of a link.
type Mux struct {
	link     *link
	epoch    uint64
	firstID  uint32 // hostFirstID or guestFirstID
	maxTheir int    // how many streams of the peer may be open
	maxOurs  int    // how many of ours may be, that the peer will take

	opened chan struct{} // the guest answered
	done   chan struct{} // the epoch is over

	mu       sync.Mutex
	err      error
	nextID   uint32
	lastID   uint32 // highest id of the peer's, which grow
	streams  map[uint32]*Stream
	theirs   int
	incoming []*Stream // not accepted yet; bounded by maxTheir
	arrived  *sync.Cond
	queue    []*Stream // have something to send, each once
	refusals []uint32
}

func newMux(l *link, epoch uint64, firstID uint32) *Mux {
	m := &Mux{
		link: l, epoch: epoch, firstID: firstID, nextID: firstID,
		maxTheir: maxFromGuest, maxOurs: maxDialled,
		opened: make(chan struct{}), done: make(chan struct{}), streams: map[uint32]*Stream{},
	}
	if firstID == guestFirstID {
		m.maxTheir, m.maxOurs = m.maxOurs, m.maxTheir
	}
	m.arrived = sync.NewCond(&m.mu)
	return m
}

// Done is closed when the epoch is over; Err then says why.
func (m *Mux) Done() <-chan struct{} { return m.done }

// Err is why the epoch is over, nil while it is not.
func (m *Mux) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Opened is closed when the other end has joined the epoch.
func (m *Mux) Opened() <-chan struct{} { return m.opened }

// Close ends the epoch, all its streams, and the pipe.
func (m *Mux) Close() error {
	m.fail(net.ErrClosed)
	m.link.close(net.ErrClosed)
	return nil
}

// Dial opens a stream to a port of the other end: it waits until the other
// end has joined the epoch and accepted. The error wraps ErrRefused when it
// did not.
func (m *Mux) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	select {
	case <-m.opened:
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot reach the guest over its serial port: %w", context.Cause(ctx))
	case <-m.done:
		return nil, fmt.Errorf("cannot reach the guest over its serial port: %w", m.Err())
	}
	s, err := m.dial(port)
	if err != nil {
		return nil, err
	}
	if err := s.waitAccepted(ctx); err != nil {
		s.abort()
		return nil, fmt.Errorf("cannot connect to port %d of the other end: %w", port, err)
	}
	return s, nil
}

func (m *Mux) dial(port uint32) (*Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if len(m.streams)-m.theirs >= m.maxOurs {
		return nil, fmt.Errorf("cannot open one more stream: %d are open", m.maxOurs)
	}
	if m.nextID > 1<<32-3 {
		return nil, errors.New("cannot open one more stream: all numbers of this connection are used up")
	}
	s := newStream(m, m.nextID, port)
	m.nextID += 2
	m.streams[s.id] = s
	s.sendSyn = true
	m.enqueue(s)
	return s, nil
}

// Accept waits for the next stream that the other end opens, and returns it
// with the port that it is for. The stream counts as accepted, and the other
// end's Dial returns, with the first Read or Write; one that is closed before
// that was refused.
func (m *Mux) Accept() (net.Conn, uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.incoming) == 0 && m.err == nil {
		m.arrived.Wait()
	}
	if m.err != nil {
		return nil, 0, m.err
	}
	s := m.incoming[0]
	m.incoming = m.incoming[1:]
	return s, s.port, nil
}

func (m *Mux) open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.opened:
	default:
		close(m.opened)
	}
}

// fail ends the epoch for the reason err, once.
func (m *Mux) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failLocked(err)
}

func (m *Mux) failLocked(err error) {
	if m.err != nil {
		return
	}
	m.err = err
	close(m.done)
	m.arrived.Broadcast()
	for _, s := range m.streams {
		s.err = err
		s.changed.Broadcast()
	}
	clear(m.streams)
	m.incoming, m.queue, m.refusals = nil, nil, nil
}

// enqueue puts s in line to send. m.mu is held.
func (m *Mux) enqueue(s *Stream) {
	if !s.queued && m.err == nil {
		s.queued = true
		m.queue = append(m.queue, s)
		m.link.wake()
	}
}

// remove forgets s: no frame of its matters any more. m.mu is held.
func (m *Mux) remove(s *Stream) {
	if m.streams[s.id] != s {
		return
	}
	delete(m.streams, s.id)
	if m.isTheirs(s.id) {
		m.theirs--
	}
}

func (m *Mux) isTheirs(id uint32) bool { return id%2 != m.firstID%2 }

// frame takes one frame of the peer's. It never waits.
func (m *Mux) frame(h head, payload []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	if h.kind == frameSyn {
		m.syn(h, payload)
		return
	}
	s := m.streams[h.stream]
	if s == nil {
		return // closed here; what is still under way to it is of no use
	}
	if !s.frame(h.kind, payload) {
		m.failLocked(ErrPeer)
	}
}

func (m *Mux) syn(h head, payload []byte) {
	if len(payload) != 4 || !m.isTheirs(h.stream) || h.stream <= m.lastID {
		m.failLocked(ErrPeer)
		return
	}
	m.lastID = h.stream
	if m.theirs >= m.maxTheir {
		m.refuse(h.stream)
		return
	}
	s := newStream(m, h.stream, binary.BigEndian.Uint32(payload))
	m.streams[s.id] = s
	m.theirs++
	m.incoming = append(m.incoming, s)
	m.arrived.Signal()
}

func (m *Mux) refuse(id uint32) {
	if len(m.refusals) >= maxRefusals {
		m.failLocked(ErrPeer)
		return
	}
	m.refusals = append(m.refusals, id)
	m.link.wake()
}

// collect appends frames that are to be sent to buf, as long as another one
// surely fits its capacity.
func (m *Mux) collect(buf []byte) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.refusals) > 0 && cap(buf)-len(buf) >= headLen {
		buf = head{epoch: m.epoch, kind: frameReset, stream: m.refusals[0]}.append(buf)
		m.refusals = m.refusals[1:]
	}
	for len(m.queue) > 0 && cap(buf)-len(buf) >= maxTurn {
		s := m.queue[0]
		m.queue = m.queue[1:]
		s.queued = false
		buf = s.collect(buf)
	}
	return buf
}
