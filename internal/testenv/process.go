package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// AwaitEnd waits until a process has ended; a zombie has.
func AwaitEnd(pid int, limit time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	n, err := poll(fd, limit)
	if err != nil {
		return fmt.Errorf("cannot watch process %d: %w", pid, err)
	}
	if n == 0 {
		return fmt.Errorf("process %d did not end within %v", pid, limit)
	}
	return nil
}

// Stop stops a process and returns when none of its threads runs any more: the
// signal alone lets them finish what they are at.
func Stop(pid int, limit time.Duration) error {
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		return fmt.Errorf("cannot stop process %d: %w", pid, err)
	}
	for late := time.Now().Add(limit); !isStopped(pid); {
		if time.Now().After(late) {
			return fmt.Errorf("process %d did not stop within %v", pid, limit)
		}
	}
	return nil
}

func isStopped(pid int) bool {
	stats, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/stat", pid))
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		_, behindName, _ := strings.Cut(string(stat), ") ")
		if err == nil && !strings.HasPrefix(behindName, "T") {
			return false
		}
	}
	return len(stats) > 0
}

// poll waits until fd can be read; a signal does not end it.
func poll(fd int, limit time.Duration) (int, error) {
	for end := time.Now().Add(limit); ; {
		left := max(0, time.Until(end))
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// ProcessesIn lists the processes whose working directory is in dir.
func ProcessesIn(dir string) []string {
	var found []string
	cwds, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range cwds {
		cwd, err := os.Readlink(link)
		if err != nil || !strings.HasPrefix(cwd, dir) {
			continue
		}
		pid := filepath.Base(filepath.Dir(link))
		if _, err := strconv.Atoi(pid); err == nil {
			cmdline, _ := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
			found = append(found, pid+" "+strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return found
}
