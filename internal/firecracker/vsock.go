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
	"strconv"
	"syscall"
	"time"
)

// ErrNoListener says that nobody in the guest listens on the vsock port, or
// that no guest runs.
var ErrNoListener = errors.New("nobody in the guest listens on that vsock port")

// maxHandshake bounds the answer's line; Firecracker's own is 32 bytes.
const maxHandshake = 32

// DialVsock connects to a vsock port of the guest through the VMM's unix
// socket, whose path may be of any length. ctx bounds the connecting only.
// [ErrNoListener] is what a guest without a listener gives.
//
// The connection has CloseWrite, but Firecracker takes that for the end of both
// directions: what the guest sends after it is lost (upstream's connection.rs).
//
// The handshake is upstream's (docs/vsock.md): "CONNECT <port>\n" goes out in
// one write, "OK <host port>\n" comes back, and every byte after that line is
// the guest's.
func DialVsock(ctx context.Context, udsPath string, port uint32) (net.Conn, error) {
	conn, err := dialUnix(ctx, udsPath)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest: %w", err)
	}
	if err := handshake(ctx, conn, port); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot reach vsock port %d of the guest: %w", port, err)
	}
	return conn, nil
}

func handshake(ctx context.Context, conn net.Conn, port uint32) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := connect(conn, port)
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

func connect(conn io.ReadWriter, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return noListener(nil, err)
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	_, err = parseOK(line)
	return err
}

// readLine reads byte by byte, for what follows the line is not ours.
func readLine(r io.Reader) ([]byte, error) {
	var line []byte
	var b [1]byte
	for len(line) < maxHandshake {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, noListener(line, err)
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			return line, nil
		}
	}
	return nil, fmt.Errorf("the VMM answered %q and no line's end", line)
}

// noListener turns the VMM's silent hang-up into its meaning. A hang-up with
// our CONNECT still unread reaches us as a reset.
func noListener(line []byte, err error) error {
	hungUp := errors.Is(err, io.EOF) || isReset(err)
	if len(line) == 0 && hungUp {
		return ErrNoListener
	}
	return err
}

// parseOK reads the line "OK <host port>\n".
func parseOK(line []byte) (uint32, error) {
	digits, isOK := bytes.CutPrefix(line, []byte("OK "))
	digits, whole := bytes.CutSuffix(digits, []byte("\n"))
	port, err := strconv.ParseUint(string(digits), 10, 32)
	if !isOK || !whole || err != nil {
		return 0, fmt.Errorf("the VMM answered %q, not OK and a port", line)
	}
	return uint32(port), nil
}

// maxSunPath is the longest path of a unix socket, unix(7), without its NUL.
const maxSunPath = 107

// dialUnix connects to a unix socket at a path of any length.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	if len(path) <= maxSunPath {
		return dialer.DialContext(ctx, "unix", path)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	return dialer.DialContext(ctx, "unix", short)
}

func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
