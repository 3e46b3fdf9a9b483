package fcserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A guest's vsock device is a unix socket on the host (upstream's
// docs/vsock.md). A host program connects, writes "CONNECT <port>\n" at once
// and gets "OK <host port>\n" and then the guest's stream; when nobody listens
// there, or the line is not good, its connection just ends. A guest's own
// connection to port P of the host (CID 2) goes to the socket <path>_<P>.

// Limits of upstream's device.
const (
	maxVsockConns       = 1023
	vsockConnectTimeout = 2 * time.Second
	minConnectLine      = 10
	maxConnectLine      = 32
)

// vsockServer is the host's half of a guest's vsock.
type vsockServer struct {
	listener *net.UnixListener
	path     string
	slots    chan struct{}
	lastPort atomic.Uint32
	conns    sync.WaitGroup
}

// maxSunPath is the longest path of a unix socket, without its NUL.
const maxSunPath = 107

// listenVsock binds the socket; connections wait until serve. The file is
// never removed.
func listenVsock(path string) (*vsockServer, error) {
	if len(path) > maxSunPath {
		return nil, errors.New("path must be shorter than SUN_LEN")
	}
	listener, err := listenUnix(path)
	if err != nil {
		return nil, errors.New(rustError(err))
	}
	s := &vsockServer{listener: listener, path: path, slots: make(chan struct{}, maxVsockConns)}
	s.lastPort.Store(1 << 30)
	return s, nil
}

// listenUnix binds a socket whose file stays when it is closed.
func listenUnix(path string) (*net.UnixListener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if path == "" {
		return nil, unix.EINVAL
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	return listener, nil
}

// guestPort is a way to a vsock port of the guest.
type guestPort func(ctx context.Context, port uint32) (net.Conn, error)

// serve takes connections until the socket is closed. awake returns when the
// machine is not paused: a paused one answers nobody.
func (s *vsockServer) serve(ctx context.Context, awake func(context.Context) error, dial guestPort) {
	for {
		conn, err := s.listener.AcceptUnix()
		if err != nil {
			return
		}
		select {
		case s.slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		s.conns.Go(func() {
			defer func() { <-s.slots }()
			s.handle(ctx, conn, awake, dial)
		})
	}
}

func (s *vsockServer) handle(ctx context.Context, host *net.UnixConn, awake func(context.Context) error, dial guestPort) {
	defer host.Close()
	stop := context.AfterFunc(ctx, func() { host.Close() })
	defer stop()
	guest, err := s.open(ctx, host, awake, dial)
	if err != nil {
		return
	}
	defer guest.Close()
	defer context.AfterFunc(ctx, func() { guest.Close() })()
	if _, err := fmt.Fprintf(host, "OK %d\n", s.nextPort()); err != nil {
		return
	}
	Join(host, guest)
}

func (s *vsockServer) open(ctx context.Context, host *net.UnixConn, awake func(context.Context) error, dial guestPort) (net.Conn, error) {
	line, err := readConnect(host)
	if err != nil {
		return nil, err
	}
	port, err := parseConnect(line)
	if err != nil {
		return nil, err
	}
	if err := awake(ctx); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, vsockConnectTimeout)
	defer cancel()
	return dial(ctx, port)
}

// nextPort counts through 2^30 to 2^31-1.
func (s *vsockServer) nextPort() uint32 {
	return s.lastPort.Add(1)&^(1<<31) | 1<<30
}

// Close unbinds the socket; its file stays.
func (s *vsockServer) Close() { s.listener.Close() }

// readConnect reads the CONNECT line as upstream does: the first ten bytes
// must come with one read, and the rest must be there already. Nothing behind
// the line's end is read.
func readConnect(conn *net.UnixConn) ([]byte, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, maxConnectLine)
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, err := unix.Read(int(fd), line[:minConnectLine])
		if errors.Is(err, unix.EAGAIN) {
			return false
		}
		line, failed = restOfLine(int(fd), line[:max(n, 0)], err)
		return true
	})
	return line, errors.Join(err, failed)
}

func restOfLine(fd int, line []byte, err error) ([]byte, error) {
	if err != nil || len(line) < minConnectLine {
		return nil, errConnectLine
	}
	for line[len(line)-1] != '\n' && len(line) < maxConnectLine {
		line = line[:len(line)+1]
		if n, err := unix.Read(fd, line[len(line)-1:]); n != 1 || err != nil {
			return nil, errConnectLine
		}
	}
	return line, nil
}

var errConnectLine = errors.New("the line is not CONNECT and a port")

// parseConnect reads "CONNECT <port>\n", the word in any case of letters.
func parseConnect(line []byte) (uint32, error) {
	words := strings.Fields(string(line))
	if len(words) < 2 || !strings.EqualFold(words[0], "connect") {
		return 0, errConnectLine
	}
	port, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil {
		return 0, errConnectLine
	}
	return uint32(port), nil
}

// dialHost connects to the socket on which the host listens for this port.
func dialHost(path string) guestPort {
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", fmt.Sprintf("%s_%d", path, port))
	}
}
