// Package proc names processes so that the name stays true: a pid alone is
// soon another process's. An [Identity] can be written down and looked up
// again by a later program; a [Process] holds the process by a pidfd.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// ErrGone says that the process of an Identity does not run any more.
var ErrGone = errors.New("the process is gone")

// Identity is one process of one boot of one host.
type Identity struct {
	PID int `json:"pid"`
	// StartTime is field 22 of /proc/<pid>/stat: clock ticks since boot.
	StartTime uint64 `json:"start_time"`
	// BootID is /proc/sys/kernel/random/boot_id.
	BootID string `json:"boot_id"`
}

// Of returns the identity of a process, also of a child that has ended and was
// not yet waited for. It is [ErrGone] when there is no such process.
func Of(pid int) (Identity, error) {
	s, err := statOf(pid)
	if err != nil {
		return Identity{}, err
	}
	boot, err := bootID()
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, StartTime: s.start, BootID: boot}, nil
}

// bootID never changes while this program runs.
var bootID = sync.OnceValues(func() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot tell this boot of the host from others: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
})

// stat is what is read of /proc/<pid>/stat (proc_pid_stat(5)).
type stat struct {
	group int    // field 5
	start uint64 // field 22
}

func statOf(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return stat{}, ErrGone
	}
	if err != nil {
		return stat{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	s, err := parseStat(b)
	if err != nil {
		return stat{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return s, nil
}

// parseStat reads a stat line. Field 2, the name in parentheses, may itself
// hold blanks and parentheses, so counting begins at the last one.
func parseStat(line []byte) (stat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("no command name in %q", line)
	}
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) < 20 {
		return stat{}, fmt.Errorf("only %d fields after the name in %q", len(fields), line)
	}
	group, err := strconv.Atoi(fields[5-3])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(fields[22-3], 10, 64)
	return stat{group, start}, err
}

// Group holds the processes whose process group this is, also those that have
// ended and were not yet waited for. Close each.
func Group(group int) ([]*Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("cannot list processes: %w", err)
	}
	var members []*Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if s, err := statOf(pid); err != nil || s.group != group {
			continue
		}
		if member, err := openNow(pid); err == nil {
			members = append(members, member)
		}
	}
	return members, nil
}

func openNow(pid int) (*Process, error) {
	id, err := Of(pid)
	if err != nil {
		return nil, err
	}
	return Open(id)
}

// Process is a running process held by a pidfd. Close it.
type Process struct {
	id   Identity
	file *os.File
	done chan struct{}
}

// Open holds the process of this identity. It returns [ErrGone] when that
// process is not there any more, whatever its pid names now. One that has
// ended but that its parent has not waited for can be opened: [Process.Ended].
func Open(id Identity) (*Process, error) {
	fd, err := unix.PidfdOpen(id.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", id.PID, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	// Looked at after the pidfd was opened: what matches now is what is held.
	if now, err := Of(id.PID); err != nil || now != id {
		file.Close()
		if err == nil {
			err = ErrGone
		}
		return nil, err
	}
	p := &Process{id: id, file: file, done: make(chan struct{})}
	go p.watch()
	return p, nil
}

// watch closes done when the process has ended. It holds no thread: the
// runtime's poller waits on the pidfd.
func (p *Process) watch() {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	_ = raw.Read(func(fd uintptr) bool {
		ended = readable(int(fd))
		return ended
	})
	if ended {
		close(p.done)
	}
}

func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// Identity is the name the process was opened by.
func (p *Process) Identity() Identity { return p.id }

// Done is closed when the process has ended. It is never closed once Close
// was called before that.
func (p *Process) Done() <-chan struct{} { return p.done }

// Ended says whether the process has ended.
func (p *Process) Ended() bool {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return true
	}
	ended := true
	_ = raw.Control(func(fd uintptr) { ended = readable(int(fd)) })
	return ended
}

// Signal sends a signal to the process, [ErrGone] when it has ended.
func (p *Process) Signal(sig unix.Signal) error {
	raw, err := p.file.SyscallConn()
	if err != nil {
		return ErrGone
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return ErrGone
	}
	if errors.Is(sent, unix.ESRCH) {
		return ErrGone
	}
	if sent != nil {
		return fmt.Errorf("cannot send %s to process %d: %w", unix.SignalName(sig), p.id.PID, sent)
	}
	return nil
}

// Close lets go of the process, which runs on.
func (p *Process) Close() error { return p.file.Close() }
