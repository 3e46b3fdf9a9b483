// Package filelock locks open files (flock(2)): between programs, and within
// one between those who have opened the file for themselves. A lock lasts until
// the file is closed in all processes that have got it.
package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrHeld is what Try gives where somebody else has the lock.
var ErrHeld = errors.New("somebody else has the lock")

// Try takes file for its caller alone, now or not at all.
func Try(file *os.File) error {
	err := flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

// Wait takes file for its caller alone as soon as nobody else has it. Whoever
// gives up, since ctx has ended, closes file.
func Wait(ctx context.Context, file *os.File) error { return wait(ctx, file, unix.LOCK_EX) }

// WaitShared takes file together with all others who share it.
func WaitShared(ctx context.Context, file *os.File) error { return wait(ctx, file, unix.LOCK_SH) }

// WaitNamed opens the file at path, makes it where there is none, and takes it.
// Who had it before may have renamed or removed it: what is given has the name.
func WaitNamed(ctx context.Context, path string) (*os.File, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return nil, err
		}
		if err := Wait(ctx, file); err != nil {
			file.Close()
			return nil, fmt.Errorf("cannot lock %s: %w", path, err)
		}
		if hasName(file, path) {
			return file, nil
		}
		file.Close()
	}
}

func hasName(file *os.File, path string) bool {
	mine, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, named)
}

// wait has a thread that nothing but the lock wakes: one that was given up
// stays until then. So it waits with a descriptor of its own, which means the
// same open file.
func wait(ctx context.Context, file *os.File, how int) error {
	own, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	locked := make(chan error, 1)
	go func() {
		err := flock(own, how)
		unix.Close(own) // first: else who closes file has not let go yet
		locked <- err
	}()
	select {
	case err := <-locked:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// flock is not interrupted by a signal: Go's runtime sends some.
func flock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
