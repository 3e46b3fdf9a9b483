package firecracker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// socketWatch tells when a name appears in a directory (inotify(7)).
type socketWatch struct {
	file *os.File
	path string
}

func watchFor(dir *os.File, name string) (*socketWatch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch %s: %w", dir.Name(), err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, throughFD(dir), unix.IN_CREATE|unix.IN_MOVED_TO); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot watch %s: %w", dir.Name(), err)
	}
	return &socketWatch{file: file, path: filepath.Join(dir.Name(), name)}, nil
}

func (w *socketWatch) Close() error { return w.file.Close() }

// next waits until something was made in the directory, or ctx has ended.
func (w *socketWatch) next(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// Which names they were does not matter: the socket is tried next.
	events := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	_, err := w.file.Read(events)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

var errEnded = errors.New("it ended at once")

// awaitAPI waits until the API socket accepts a connection and it is this
// process that listens, or until the process or ctx ends.
func (p *Process) awaitAPI(ctx context.Context, socket *socketWatch) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.done:
			cancel(errEnded)
		case <-ctx.Done():
		}
	}()
	for {
		if err := socket.next(ctx); err != nil {
			return p.whyNoAPI(err)
		}
		err := accepts(ctx, socket.path)
		if err == nil {
			return p.checkPeer(ctx)
		}
		if !errors.Is(err, unix.ENOENT) {
			return p.whyNoAPI(err)
		}
	}
}

func (p *Process) whyNoAPI(err error) error {
	if errors.Is(err, errEnded) {
		status, _ := p.Exit()
		return fmt.Errorf("it ended with status %d before it served its API", status)
	}
	return fmt.Errorf("its API socket did not come: %w", err)
}

// betweenBindAndListen is how often a socket that is bound is tried until its
// owner also listens: the kernel tells nobody of that.
const betweenBindAndListen = time.Millisecond

func accepts(ctx context.Context, path string) error {
	for {
		var conn net.Conn
		conn, err := dialUnix(ctx, path)
		if err == nil {
			return conn.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		select {
		case <-time.After(betweenBindAndListen):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
