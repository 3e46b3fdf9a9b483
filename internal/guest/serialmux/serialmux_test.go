package serialmux

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// closeWriter is what a half-closable connection has.
type closeWriter interface{ CloseWrite() error }

// pair is a host and a guest over a pipe; the guest serves each stream with
// serve.
func pair(t *testing.T, serve func(net.Conn, uint32)) *Mux {
	t.Helper()
	a, b := net.Pipe()
	host := Host(a)
	over := make(chan struct{})
	go func() {
		defer close(over)
		Guest(b, func(m *Mux) { serveAll(m, serve) })
	}()
	t.Cleanup(func() {
		host.Close()
		<-over
	})
	return host
}

func serveAll(m *Mux, serve func(net.Conn, uint32)) {
	for {
		conn, port, err := m.Accept()
		if err != nil {
			return
		}
		go serve(conn, port)
	}
}

func echo(conn net.Conn, _ uint32) {
	defer conn.Close()
	io.Copy(conn, conn)
	conn.(closeWriter).CloseWrite()
}

func dial(t *testing.T, m *Mux, port uint32) net.Conn {
	t.Helper()
	conn, err := m.Dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestEchoWithHalfClose(t *testing.T) {
	host := pair(t, func(conn net.Conn, port uint32) {
		if port != 1023 {
			conn.Close()
			return
		}
		defer conn.Close()
		all, err := io.ReadAll(conn) // needs the host's CloseWrite
		if err != nil {
			t.Error(err)
		}
		conn.Write(append([]byte("got "), all...))
	})
	conn := dial(t, host, 1023)
	conn.Write([]byte("one "))
	conn.Write([]byte("two"))
	conn.(closeWriter).CloseWrite()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "got one two" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := host.Dial(t.Context(), 7); !errors.Is(err, ErrRefused) {
		t.Fatalf("dial to a port without listener: %v", err)
	}
}

func TestGuestDialsHost(t *testing.T) {
	a, b := net.Pipe()
	host := Host(a)
	defer host.Close()
	go Guest(b, func(m *Mux) {
		conn, err := m.Dial(context.Background(), 1022)
		if err != nil {
			t.Error(err)
			return
		}
		conn.Write([]byte("hello"))
		conn.Close()
	})
	conn, port, err := host.Accept()
	if err != nil || port != 1022 {
		t.Fatal(port, err)
	}
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Fatalf("%q, %v", got, err)
	}
}

// hashed copies n random bytes to w and returns their hash.
func hashed(w io.Writer, n int, sum hash.Hash) error {
	chunk := make([]byte, 100<<10)
	src := rand.NewChaCha8([32]byte{1})
	for n > 0 {
		part := chunk[:min(n, len(chunk))]
		src.Read(part)
		sum.Write(part)
		if _, err := w.Write(part); err != nil {
			return err
		}
		n -= len(part)
	}
	return nil
}

// TestGigabyte moves 1 GiB through a stream, whole and in order, while another
// stream is stuck, and the heap stays flat.
func TestGigabyte(t *testing.T) {
	const size = 1 << 30
	sent := make(chan []byte, 1)
	host := pair(t, func(conn net.Conn, port uint32) {
		defer conn.Close()
		if port == 2 {
			io.Copy(conn, neverEnding{}) // nobody reads this
			return
		}
		sum := sha256.New()
		if err := hashed(conn, size, sum); err != nil {
			t.Error(err)
		}
		sent <- sum.Sum(nil)
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	stuck := dial(t, host, 2)
	defer stuck.Close()
	conn := dial(t, host, 1)
	sum := sha256.New()
	start := time.Now()
	n, err := io.Copy(sum, conn)
	if n != size || err != nil {
		t.Fatal(n, err)
	}
	t.Logf("%.0f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	if !bytes.Equal(sum.Sum(nil), <-sent) {
		t.Fatal("the bytes differ")
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys - before.HeapSys); grown > 64<<20 { // it is not given back between tests
		t.Fatalf("the heap grew by %d MiB", grown>>20)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

func TestDeadlineAndClose(t *testing.T) {
	block := make(chan struct{})
	host := pair(t, func(conn net.Conn, _ uint32) {
		conn.Read(make([]byte, 1))
		<-block
		conn.Close()
	})
	conn := dial(t, host, 1)
	conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); err != nil { // what the other end waits for
		t.Fatal(err)
	}
	conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
	if n, err := conn.Write(make([]byte, 2*window)); n > window || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(n, err)
	}
	conn.SetDeadline(time.Time{})
	close(block)
	if _, err := io.ReadAll(conn); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(make([]byte, window)); !errors.Is(err, ErrReset) {
		t.Fatalf("write to a closed stream: %v", err)
	}
	conn.Close()
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Fatal(err)
	}
}

func TestDialGivesUp(t *testing.T) {
	a, b := net.Pipe() // nobody answers there
	defer b.Close()
	host := Host(a)
	defer host.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	cancel(cause)
	if _, err := host.Dial(ctx, 1); !errors.Is(err, cause) {
		t.Fatal(err)
	}
}

// TestTooManyStreams opens as many streams as the guest takes, and one more.
func TestTooManyStreams(t *testing.T) {
	host := pair(t, func(conn net.Conn, _ uint32) { conn.Read(make([]byte, 1)) })
	var open []net.Conn
	for range maxDialled {
		open = append(open, dial(t, host, 1))
	}
	if _, err := host.Dial(t.Context(), 1); err == nil {
		t.Fatal("one stream too many was opened")
	}
	open[0].Close()
	var wg sync.WaitGroup
	for _, conn := range open {
		wg.Go(func() { conn.Close() })
	}
	wg.Wait()
}
