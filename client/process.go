package client

import (
	"context"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// processOf gives a pidfd of the process that listens at the other end. As
// long as the connection is open the number can't have passed to another.
func processOf(conn net.Conn) (pidfd int, err error) {
	peer, err := peerOf(conn.(*net.UnixConn))
	if err != nil {
		return -1, err
	}
	pidfd, err = unix.PidfdOpen(int(peer.Pid), 0)
	if err != nil {
		return -1, fmt.Errorf("cannot watch bangerd's process: %w", err)
	}
	return pidfd, nil
}

// awaitEnd returns when the process has ended. Ctx's end is noticed through a
// pipe, so that the wait itself never polls.
func awaitEnd(ctx context.Context, pidfd int) error {
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer unix.Close(wake[0])
	stop := context.AfterFunc(ctx, func() { unix.Close(wake[1]) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		}
	}()
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("cannot wait for bangerd's end: %w", err)
		case fds[0].Revents != 0:
			return nil
		default:
			return canceled(ctx)
		}
	}
}
