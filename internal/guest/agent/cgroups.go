package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// cgroups makes one control group for each command below dir.
type cgroups struct {
	dir string

	mu   sync.Mutex
	next int
	left []string // of commands that are over, with something in them that lives on
}

// cgroup is the control group of one command; nil is none.
type cgroup struct {
	parent *cgroups
	path   string
	fd     int // of the directory, open until started
}

// create makes a group. There may be none: no cgroup v2 tree, or not the right
// to use it; a command runs without as well.
func (c *cgroups) create() *cgroup {
	if c.dir == "" {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sweep()
	if err := os.Mkdir(c.dir, 0o755); err != nil && !os.IsExist(err) {
		return nil
	}
	path, err := c.makeNext()
	if err != nil {
		return nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		os.Remove(path)
		return nil
	}
	return &cgroup{parent: c, path: path, fd: fd}
}

// makeNext makes the directory of the next free number.
func (c *cgroups) makeNext() (string, error) {
	for {
		c.next++
		path := filepath.Join(c.dir, strconv.Itoa(c.next))
		err := os.Mkdir(path, 0o755)
		if err == nil {
			return path, nil
		}
		if !os.IsExist(err) {
			return "", fmt.Errorf("cannot make a control group: %w", err)
		}
	}
}

// sweep removes groups that have become empty.
func (c *cgroups) sweep() {
	left := c.left[:0]
	for _, path := range c.left {
		if os.Remove(path) != nil {
			left = append(left, path)
		}
	}
	c.left = left
}

// started closes the directory, which only starting a process needs.
func (g *cgroup) started() {
	if g != nil {
		unix.Close(g.fd)
	}
}

// release removes the group, at once or when what lives on in it has ended.
func (g *cgroup) release() {
	if g == nil || os.Remove(g.path) == nil {
		return
	}
	g.parent.mu.Lock()
	defer g.parent.mu.Unlock()
	g.parent.left = append(g.parent.left, g.path)
}

// processes lists the group's members, or all processes where there is none.
func (g *cgroup) processes() []int {
	if g == nil {
		return allProcesses()
	}
	text, err := os.ReadFile(filepath.Join(g.path, "cgroup.procs"))
	if err != nil {
		return nil
	}
	var pids []int
	for field := range strings.FieldsSeq(string(text)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func allProcesses() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// sessionOf is the session that a process is in, 0 if it has ended.
func sessionOf(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// pid (name) state ppid pgrp session …, and the name may contain anything.
	_, rest, ok := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 4 || fields[0] == "Z" {
		return 0
	}
	session, err := strconv.Atoi(fields[3])
	if err != nil {
		return 0
	}
	return session
}
