package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// MemoryLimit is a cgroup whose processes may have only so much memory
// together: the kernel's OOM killer ends one of them when they take more.
type MemoryLimit struct{ dir string }

// LimitMemory makes the cgroup, on a host with cgroups of version 1 or 2.
func LimitMemory(name string, bytes int64) (*MemoryLimit, error) {
	dir, file := filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/memory"); err != nil {
		dir, file = filepath.Join("/sys/fs/cgroup", name), "memory.max"
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0); err != nil {
			return nil, fmt.Errorf("cannot limit memory: %w", err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot limit memory: %w", err)
	}
	l := &MemoryLimit{dir}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot limit memory: %w", err), l.Close())
	}
	return l, nil
}

// Add puts a process into it.
func (l *MemoryLimit) Add(pid int) error {
	return os.WriteFile(filepath.Join(l.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
}

// Close removes it; its processes must have ended.
func (l *MemoryLimit) Close() error { return os.Remove(l.dir) }

// Hide makes a file one that can't be opened, in this mount namespace only;
// show takes that back. It lays a socket over it.
func Hide(file, scratch string) (show func() error, err error) {
	socket := filepath.Join(scratch, "nothing")
	if err := unix.Mknod(socket, unix.S_IFSOCK|0o600, 0); err != nil {
		return nil, fmt.Errorf("cannot hide %s: %w", file, err)
	}
	if err := unix.Mount(socket, file, "", unix.MS_BIND, ""); err != nil {
		return nil, fmt.Errorf("cannot hide %s: %w", file, err)
	}
	return func() error { return unix.Unmount(file, 0) }, nil
}
