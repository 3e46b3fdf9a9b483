package serialmux

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// rawGuest is a guest that writes what it likes: the test's end of a host's
// pipe, after the host's opening was read.
func rawGuest(t *testing.T) (host *Mux, pipe net.Conn, epoch uint64) {
	t.Helper()
	a, b := net.Pipe()
	host = Host(a)
	t.Cleanup(func() { host.Close(); b.Close() })
	opening := make([]byte, maxFrame+headLen)
	if _, err := io.ReadFull(b, opening); err != nil {
		t.Fatal(err)
	}
	h, ok := parseHead(opening[maxFrame:])
	if !ok || h.kind != frameOpen || !bytes.Equal(opening[:maxFrame], make([]byte, maxFrame)) {
		t.Fatalf("the opening is %+v", h)
	}
	return host, b, h.epoch
}

func send(t *testing.T, to io.Writer, epoch uint64, kind frameType, stream uint32, payload []byte) error {
	t.Helper()
	_, err := to.Write(append(head{epoch: epoch, kind: kind, length: len(payload), stream: stream}.append(nil), payload...))
	return err
}

func u32(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

// pipeHolds is how many frames at most are sent before the host has read them.
const pipeHolds = 20_000

// TestMillionStreams has a guest open streams for ever, and never read.
func TestMillionStreams(t *testing.T) {
	host, pipe, epoch := rawGuest(t)
	send(t, pipe, epoch, frameOpened, 0, nil)
	for id := uint32(2); id < 2_000_000; id += 2 {
		if send(t, pipe, epoch, frameSyn, id, u32(1022)) != nil {
			break
		}
		select {
		case <-host.Done():
			if !errors.Is(host.Err(), ErrPeer) {
				t.Fatal(host.Err())
			}
			if id > 2*(maxFromGuest+maxRefusals+pipeHolds) {
				t.Fatalf("%d streams were taken", id/2)
			}
			return
		default:
		}
	}
	t.Fatal("a million streams were taken")
}

// TestMillionStreamsRead has a guest open and break off streams one after
// another, and read: that is allowed, and costs nothing that stays.
func TestMillionStreamsRead(t *testing.T) {
	host, pipe, epoch := rawGuest(t)
	go io.Copy(io.Discard, pipe)
	send(t, pipe, epoch, frameOpened, 0, nil)
	go func() {
		for {
			conn, _, err := host.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	for id := uint32(2); id < 200_000; id += 2 {
		if err := send(t, pipe, epoch, frameSyn, id, u32(1022)); err != nil {
			t.Fatal(err)
		}
		if err := send(t, pipe, epoch, frameReset, id, nil); err != nil {
			t.Fatal(err)
		}
	}
	if n := host.openStreams(); n > maxFromGuest {
		t.Fatalf("%d streams are open", n)
	}
}

// TestRulesBroken sends what ends an epoch.
func TestRulesBroken(t *testing.T) {
	big := make([]byte, maxPayload)
	for name, attack := range map[string]func(*testing.T, net.Conn, uint64, uint32){
		"data beyond the window": func(t *testing.T, p net.Conn, e uint64, id uint32) {
			for range window/maxPayload + 2 {
				send(t, p, e, frameData, id, big)
			}
		},
		"credit beyond the window": func(t *testing.T, p net.Conn, e uint64, id uint32) {
			send(t, p, e, frameCredit, id, u32(1))
		},
		"credit without a number": func(t *testing.T, p net.Conn, e uint64, id uint32) {
			send(t, p, e, frameCredit, id, nil)
		},
		"data after the end": func(t *testing.T, p net.Conn, e uint64, id uint32) {
			send(t, p, e, frameEnd, id, nil)
			send(t, p, e, frameData, id, big)
		},
		"a stream with our number": func(t *testing.T, p net.Conn, e uint64, _ uint32) {
			send(t, p, e, frameSyn, 3, u32(1))
		},
		"a stream twice": func(t *testing.T, p net.Conn, e uint64, _ uint32) {
			send(t, p, e, frameSyn, 2, u32(1))
			send(t, p, e, frameSyn, 2, u32(1))
		},
		"an epoch of its own": func(t *testing.T, p net.Conn, e uint64, _ uint32) {
			send(t, p, e, frameOpen, 0, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			host, pipe, epoch := rawGuest(t)
			go io.Copy(io.Discard, pipe)
			send(t, pipe, epoch, frameOpened, 0, nil)
			conn, err := dialAnswered(t, host, pipe, epoch)
			if err != nil {
				t.Fatal(err)
			}
			go attack(t, pipe, epoch, 1)
			defer conn.Close() // nobody reads it, so that its window fills
			<-host.Done()
			if !errors.Is(host.Err(), ErrPeer) {
				t.Fatal(host.Err())
			}
		})
	}
}

// dialAnswered opens stream 1 while the guest accepts it.
func dialAnswered(t *testing.T, host *Mux, pipe net.Conn, epoch uint64) (net.Conn, error) {
	t.Helper()
	s, err := host.dial(7)
	if err != nil {
		return nil, err
	}
	go send(t, pipe, epoch, frameAck, s.id, nil)
	return s, s.waitAccepted(t.Context())
}

// TestNeverReads has a guest that sends on all its streams and never reads:
// what the host holds is bounded.
func TestNeverReads(t *testing.T) {
	host, pipe, epoch := rawGuest(t)
	send(t, pipe, epoch, frameOpened, 0, nil)
	data := make([]byte, maxPayload)
	for i := range uint32(maxFromGuest) {
		send(t, pipe, epoch, frameSyn, 2+2*i, u32(1022))
		for range window / maxPayload {
			if err := send(t, pipe, epoch, frameData, 2+2*i, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Nor does anything that the host sends pile up.
	for range 100 {
		conn, err := host.dial(7)
		if err != nil {
			t.Fatal(err)
		}
		conn.abort()
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if limit := uint64(maxFromGuest*window*2 + 8<<20); m.HeapAlloc > limit {
		t.Fatalf("%d MiB are held", m.HeapAlloc>>20)
	}
	if err := host.Err(); err != nil {
		t.Fatal(err)
	}
}

// openStreams is how many streams there are.
func (m *Mux) openStreams() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// wire is a pipe whose host end can be cut off and connected anew, with
// whatever was under way lost or kept, as a virtio-serial port behind a socket
// is. The guest's end never ends.
type wire struct {
	toGuest   *io.PipeWriter
	guestIn   *io.PipeReader
	fromGuest chan []byte
}

func newWire() *wire {
	r, w := io.Pipe()
	return &wire{toGuest: w, guestIn: r, fromGuest: make(chan []byte)}
}

func (w *wire) Read(p []byte) (int, error) { return w.guestIn.Read(p) }

func (w *wire) Write(p []byte) (int, error) {
	w.fromGuest <- append([]byte(nil), p...)
	return len(p), nil
}

func (w *wire) Close() error { return w.guestIn.Close() }

// hostEnd is one connection of the host's. It breaks after sending so many
// bytes.
type hostEnd struct {
	w      *wire
	left   int
	closed chan struct{}
	rest   []byte
	mu     sync.Mutex // held by the Read that is under way
}

func (h *hostEnd) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	h.left -= n
	if _, err := h.w.toGuest.Write(p[:n]); err != nil {
		return 0, err
	}
	if n < len(p) {
		return n, errors.New("the connection is cut")
	}
	return n, nil
}

func (h *hostEnd) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.closed:
		return 0, net.ErrClosed
	default:
	}
	if len(h.rest) == 0 {
		select {
		case h.rest = <-h.w.fromGuest:
		case <-h.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// Close returns when nothing is read any more: it would be the next connection's.
func (h *hostEnd) Close() error {
	close(h.closed)
	h.mu.Lock()
	defer h.mu.Unlock()
	return nil
}

// TestReconnect cuts the host's connection anywhere, again and again: each new
// one gets a working epoch, with none of the old one's bytes in it.
func TestReconnect(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWire()
		over := make(chan struct{})
		go func() {
			defer close(over)
			Guest(w, func(m *Mux) { serveAll(m, echo) })
		}()
		for i, after := range rapid.SliceOfN(rapid.IntRange(maxFrame, 4*maxFrame), 1, 4).Draw(rt, "cuts") {
			m := Host(&hostEnd{w: w, left: after, closed: make(chan struct{})})
			go talkUntilCut(m, byte(i))
			<-m.Done()
		}
		m := Host(&hostEnd{w: w, left: 1 << 30, closed: make(chan struct{})})
		conn, err := m.Dial(context.Background(), 1)
		if err != nil {
			rt.Fatal(err)
		}
		want := bytes.Repeat([]byte("whole and in order "), 20_000)
		go func() {
			conn.Write(want)
			conn.(closeWriter).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, want) {
			rt.Fatalf("%d bytes of %d, %v", len(got), len(want), err)
		}
		m.Close()
		w.Close()
		w.toGuest.Close()
		<-over
	})
}

// talkUntilCut keeps several streams busy, with bytes that look like frames.
func talkUntilCut(m *Mux, salt byte) {
	for range 3 {
		go func() {
			conn, err := m.Dial(context.Background(), 1)
			if err != nil {
				return
			}
			go io.Copy(io.Discard, conn)
			noise := head{epoch: uint64(salt), kind: frameOpen, stream: 1}.append(nil)
			for err == nil {
				_, err = conn.Write(bytes.Repeat(noise, 500))
			}
		}()
	}
}

// FuzzLink feeds bytes to a guest's and to a host's end: neither may fail in
// another way than by ending its epoch, nor wait for ever.
func FuzzLink(f *testing.F) {
	open := head{epoch: 5, kind: frameOpen}.append(nil)
	syn := append(head{epoch: 5, kind: frameSyn, stream: 1, length: 4}.append(nil), 0, 0, 3, 255)
	data := append(head{epoch: 5, kind: frameData, stream: 1, length: 3}.append(nil), "abc"...)
	f.Add(bytes.Join([][]byte{open, syn, data}, nil))
	f.Add(bytes.Join([][]byte{open[:10], open, syn, data[:20]}, []byte{0x62}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		err := Guest(&recorded{Reader: bytes.NewReader(in)}, func(m *Mux) { serveAll(m, echo) })
		if err == nil {
			t.Fatal("the end of the pipe was no error")
		}
		m := Host(&recorded{Reader: bytes.NewReader(in)})
		<-m.Done()
	})
}

// recorded is a pipe that gives what was recorded, and takes anything.
type recorded struct{ io.Reader }

func (recorded) Write(p []byte) (int, error) { return len(p), nil }
func (recorded) Close() error                { return nil }
