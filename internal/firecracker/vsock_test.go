package firecracker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// vsockSocket serves one connection of a VMM's vsock socket by hand.
func vsockSocket(t *testing.T, path string, serve func(conn *net.UnixConn)) {
	t.Helper()
	// By the directory, for the path may be longer than a socket's may be.
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: throughFD(dir) + "/" + filepath.Base(path), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	}()
}

func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "v.sock")
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestTheHandshakeIsOneWriteAndReadsNothingElse(t *testing.T) {
	path := socketPath(t)
	request := make(chan string, 1)
	vsockSocket(t, path, func(conn *net.UnixConn) {
		// One read, as Firecracker's.
		line := make([]byte, 64)
		n, _ := conn.Read(line)
		request <- string(line[:n])
		io.WriteString(conn, "OK 1073741824\nthe guest's first words")
		io.Copy(conn, conn)
	})
	conn, err := DialVsock(bounded(t), path, 1023)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if line := <-request; line != "CONNECT 1023\n" {
		t.Errorf("the request is %q", line)
	}
	if _, err := io.WriteString(conn, ", echoed"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(conn)
	if err != nil || string(text) != "the guest's first words, echoed" {
		t.Errorf("the stream is %q (%v)", text, err)
	}
}

func TestAPathOfAnyLengthIsDialled(t *testing.T) {
	path := filepath.Join(filepath.Dir(socketPath(t)), strings.Repeat("long", 40), "v.sock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	vsockSocket(t, path, func(conn *net.UnixConn) {
		conn.Read(make([]byte, 64))
		io.WriteString(conn, "OK 1073741824\n")
	})
	conn, err := DialVsock(bounded(t), path, 1)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestAHangUpMeansThatNobodyListens(t *testing.T) {
	for name, serve := range map[string]func(*net.UnixConn){
		"after the line":  func(conn *net.UnixConn) { conn.Read(make([]byte, 64)) },
		"without reading": func(*net.UnixConn) {},
	} {
		t.Run(name, func(t *testing.T) {
			path := socketPath(t)
			vsockSocket(t, path, serve)
			if _, err := DialVsock(bounded(t), path, 1); !errors.Is(err, ErrNoListener) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestABadAnswerIsAnError(t *testing.T) {
	for _, answer := range []string{"NO 1\n", "OK\n", "OK x\n", "OK 99999999999\n", "OK 1", strings.Repeat("O", 100)} {
		t.Run(answer, func(t *testing.T) {
			path := socketPath(t)
			vsockSocket(t, path, func(conn *net.UnixConn) {
				conn.Read(make([]byte, 64))
				io.WriteString(conn, answer)
			})
			_, err := DialVsock(bounded(t), path, 1)
			if err == nil || errors.Is(err, ErrNoListener) {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestASilentVMMIsGivenUp(t *testing.T) {
	path := socketPath(t)
	asked := make(chan struct{})
	vsockSocket(t, path, func(conn *net.UnixConn) {
		conn.Read(make([]byte, 64))
		close(asked)
		io.Copy(io.Discard, conn)
	})
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("the caller is tired of waiting")
	go func() {
		<-asked
		cancel(tired)
	}()
	if _, err := DialVsock(ctx, path, 1); !errors.Is(err, tired) {
		t.Errorf("the error is %v", err)
	}
}

func TestASocketThatIsNotThereIsToldAsSuch(t *testing.T) {
	if _, err := DialVsock(bounded(t), socketPath(t), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}

// FuzzHandshake: whatever a VMM answers, no byte behind the first line's end
// is read, no more than a line's worth is read at all, and only an OK with a
// port is one.
func FuzzHandshake(f *testing.F) {
	for _, seed := range []string{"", "OK 1073741824\n", "OK 1\nand more", "OK \n", "ok 1\n", "OK 1 \n", "OK +1\n", strings.Repeat("9", 40)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, answer []byte) {
		rest := bytes.NewReader(answer)
		conn := struct {
			io.Reader
			io.Writer
		}{iotest.OneByteReader(rest), io.Discard}
		err := connect(conn, 1)
		read := len(answer) - rest.Len()
		end := bytes.IndexByte(answer, '\n') + 1
		if end > 0 && read > end || read > maxHandshake {
			t.Errorf("%d bytes of %q were read", read, answer)
		}
		if err != nil {
			return
		}
		var port uint32
		if _, scanned := fmt.Sscanf(string(answer[:end]), "OK %d\n", &port); scanned != nil {
			t.Errorf("%q passed for an OK", answer)
		}
	})
}
