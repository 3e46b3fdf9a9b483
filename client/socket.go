package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// maxSocketPath is what sun_path of struct sockaddr_un holds beside its final
// zero.
const maxSocketPath = 107

// dial connects to the daemon and starts it when none listens.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	conn, err := c.connect(ctx)
	if err == nil || !absent(err) {
		return conn, err
	}
	if len(c.options.Daemon) == 0 {
		return nil, ErrNotRunning
	}
	if err := c.start(ctx); err != nil {
		return nil, err
	}
	conn, err = c.connect(ctx)
	if err != nil && absent(err) {
		return nil, &api.Error{Kind: api.KindInternal,
			Message: "bangerd started and ended at once",
			Hint:    "`banger daemon logs` may tell why"}
	}
	return conn, err
}

// ErrNotRunning is what a client that must not start a daemon says when there
// is none.
var ErrNotRunning error = &api.Error{Kind: api.KindNotFound, Message: "bangerd is not running",
	Hint: "every command that needs it starts it, `banger vm list` for one"}

// absent tells that nobody listens, and that nothing stands in the way of one
// who would.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// connect makes sure that the socket can be trusted before it says a word on
// it. An error that satisfies absent means that no daemon runs; any other is an
// api.Error.
func (c *Client) connect(ctx context.Context) (net.Conn, error) {
	if err := checkDir(c.options.Runtime); err != nil {
		return nil, err
	}
	if err := checkSocket(c.Socket()); err != nil {
		return nil, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.Socket())
	if err != nil {
		if absent(err) || ctx.Err() != nil {
			return nil, err
		}
		return nil, &api.Error{Kind: api.KindForbidden,
			Message: fmt.Sprintf("cannot connect to bangerd at %s: %s", c.Socket(), plain(err)),
			Hint:    fmt.Sprintf("`ls -l %s` should show your own user", c.Socket())}
	}
	if err := checkPeer(conn.(*net.UnixConn)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// checkDir refuses a runtime directory that others can write to or list: they
// could put a daemon of theirs into it. A missing one satisfies absent.
func checkDir(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		if absent(err) {
			return err
		}
		return &api.Error{Kind: api.KindForbidden, Message: fmt.Sprintf("cannot look at %s: %s", dir, plain(err)),
			Hint: "check XDG_RUNTIME_DIR: banger keeps its socket below it"}
	}
	if !info.IsDir() {
		return &api.Error{Kind: api.KindForbidden, Message: dir + " is not a directory",
			Hint: "banger keeps its socket there: move it away"}
	}
	if err := checkOwner(dir, info); err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return &api.Error{Kind: api.KindForbidden,
			Message: fmt.Sprintf("other users may enter %s (mode %04o)", dir, info.Mode().Perm()),
			Hint:    fmt.Sprintf("see that nobody put anything into it, then run `chmod 700 %s`", dir)}
	}
	return nil
}

func checkOwner(path string, info fs.FileInfo) error {
	owner := int(info.Sys().(*syscall.Stat_t).Uid)
	if owner == os.Geteuid() {
		return nil
	}
	return &api.Error{Kind: api.KindForbidden,
		Message: fmt.Sprintf("%s belongs to %s, you are %s", path, userName(owner), userName(os.Geteuid())),
		Hint:    "run banger as its owner, or set XDG_RUNTIME_DIR to a directory of your own"}
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("user %d", uid)
}

func checkSocket(path string) error {
	if len(path) > maxSocketPath {
		return &api.Error{Kind: api.KindBadRequest,
			Message: fmt.Sprintf("the socket's path is too long: %s has %d bytes, %d are the most", path, len(path), maxSocketPath),
			Hint:    "set XDG_RUNTIME_DIR to a shorter path"}
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return &api.Error{Kind: api.KindForbidden, Message: path + " is not a socket",
			Hint: "something else has taken bangerd's place: move it away"}
	}
	return checkOwner(path, info)
}

// checkPeer refuses a daemon that runs as another user.
func checkPeer(conn *net.UnixConn) error {
	peer, err := peerOf(conn)
	if err != nil {
		return err
	}
	if int(peer.Uid) != os.Geteuid() {
		return &api.Error{Kind: api.KindForbidden,
			Message: fmt.Sprintf("the program that listens at bangerd's socket runs as %s, you are %s",
				userName(int(peer.Uid)), userName(os.Geteuid())),
			Hint: "end it, then try again"}
	}
	return nil
}

func peerOf(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("cannot look at the peer: %w", err)
	}
	var peer *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		peer, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return nil, fmt.Errorf("cannot look at the peer: %w", err)
	}
	return peer, nil
}
