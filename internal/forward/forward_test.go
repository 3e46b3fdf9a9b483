package forward_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/forward"
)

// echo is a server that says everything back; it gives the way to itself.
func echo(t *testing.T) forward.Dial {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
}

func TestPortCarriesOnBothFamilies(t *testing.T) {
	p, err := forward.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	p.Serve(echo(t), func(err error) { t.Error(err) })
	var all sync.WaitGroup
	for _, host := range []string{"127.0.0.1", "::1"} {
		for i := range 20 {
			all.Go(func() {
				conn, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(p.Number())))
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close()
				text := strings.Repeat(fmt.Sprint(i), 1<<20)
				go func() {
					io.WriteString(conn, text)
					conn.(*net.TCPConn).CloseWrite()
				}()
				if back, err := io.ReadAll(conn); err != nil || string(back) != text {
					t.Errorf("%d bytes of %d came back: %v", len(back), len(text), err)
				}
			})
		}
	}
	all.Wait()
	if _, err := forward.Listen(p.Number()); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	held, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Number()))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := held.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived its port")
	}
	again, err := forward.Listen(p.Number())
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestNobodyThere(t *testing.T) {
	p, err := forward.Listen(0)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	nobody := errors.New("nobody is there")
	told := make(chan error, 1)
	p.Serve(func(context.Context) (net.Conn, error) { return nil, nobody }, func(err error) { told <- err })
	// The reset may come before the connection is told of, or after it.
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.Number())); err == nil {
		defer conn.Close()
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("somebody answered")
		}
	}
	if got := <-told; !errors.Is(got, nobody) {
		t.Error(got)
	}
}
