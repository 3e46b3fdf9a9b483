// Package oom finds out whether the kernel's OOM killer ended a process, which
// to its parent looks like any other SIGKILL.
//
// The kernel counts its kills, host-wide in /proc/vmstat and for each memory
// cgroup, before it sends the signal; and it names each victim in its log, by
// pid and user id (mm/oom_kill.c). Both are of use only together: the log is a
// ring that forgets, and in many containers it can't be read; the counters name
// nobody. So there are three answers: yes, no, and probably.
package oom

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Mark is how often the OOM killer had come when a process began.
type Mark struct {
	Host  uint64 `json:"host"`            // the host's kills: oom_kill of /proc/vmstat
	Group string `json:"group,omitempty"` // the file that counts those of the process's cgroup
	Kills uint64 `json:"kills"`           // what Group said
}

// MarkOf takes the mark of a process. A counter that can't be read stays zero:
// then less can be said of its end.
func MarkOf(pid int) Mark {
	host, _ := counter("/proc/vmstat")
	m := Mark{Host: host}
	for _, file := range groupFiles(pid) {
		if kills, err := counter(file); err == nil {
			m.Group, m.Kills = file, kills
			break
		}
	}
	return m
}

// groupFiles gives the files that may count the kills in a process's memory
// cgroup (cgroups(7)): version 2's, alone or beside version 1, and version 1's.
func groupFiles(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	return filesOf(string(text))
}

func filesOf(cgroups string) []string {
	const root = "/sys/fs/cgroup"
	var files []string
	for line := range strings.Lines(cgroups) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(part) != 3:
		case part[0] == "0" && part[1] == "":
			files = append(files, filepath.Join(root, part[2], "memory.events"))
		case part[1] == "memory":
			files = append(files, filepath.Join(root, "memory", part[2], "memory.oom_control"))
		}
	}
	return files
}

// counter reads the line "oom_kill N", which all three files have.
func counter(file string) (uint64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, fmt.Errorf("cannot count the kernel's OOM kills: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return strconv.ParseUint(n, 10, 64)
		}
	}
	return 0, fmt.Errorf("cannot count the kernel's OOM kills: %s has no oom_kill", file)
}

// Cause says in words that the OOM killer ended the process pid, or one of its
// user uid, since the mark; "" when it did not. It is for a process that is gone
// and was not ended on purpose: where nobody can tell for certain, it says
// probably.
func (m Mark) Cause(pid, uid int) string {
	now, err := counter("/proc/vmstat")
	if err != nil || now <= m.Host {
		return ""
	}
	kills := int(min(now-m.Host, 1<<20))
	victims, readable := lastVictims(kills, func(v victim) bool { return v.is(pid, uid) })
	for _, v := range victims {
		if v.is(pid, uid) {
			return v.String()
		}
	}
	if readable && len(victims) == kills {
		return "" // every victim is known, and is another
	}
	if inGroup, err := counter(m.Group); err == nil && inGroup > m.Kills {
		return "the VMM was killed, probably by the kernel for want of memory: it killed a process of the VMM's cgroup"
	}
	return ""
}

// victim is a process that the OOM killer ended.
type victim struct {
	pid, uid int   // uid is -1 in the words of kernels before 5.4
	kib      int64 // of anonymous and shared memory
	limit    bool  // it was over its cgroup's limit, not the host out of memory
}

func (v victim) is(pid, uid int) bool { return v.pid == pid || v.uid == uid }

func (v victim) String() string {
	why := "the host ran out of memory"
	if v.limit {
		why = "its cgroup's memory limit was reached"
	}
	return fmt.Sprintf("%s, and the kernel killed the VMM (process %d, which had %d MiB)", why, v.pid, v.kib>>10)
}

// killed is the line that __oom_kill_process prints. A program's name is what
// its owner wants it to be.
var killed = regexp.MustCompile(`^(Memory cgroup out of memory|Out of memory[^:]*): Killed process (\d+) \(.*\) total-vm:\d+kB, anon-rss:(\d+)kB, file-rss:\d+kB, shmem-rss:(\d+)kB(?:, UID:(\d+))?`)

func parse(line string) (victim, bool) {
	m := killed.FindStringSubmatch(line)
	if m == nil {
		return victim{}, false
	}
	v := victim{limit: strings.HasPrefix(m[1], "Memory cgroup"), uid: -1}
	v.pid, _ = strconv.Atoi(m[2])
	anon, _ := strconv.ParseInt(m[3], 10, 64)
	shared, _ := strconv.ParseInt(m[4], 10, 64)
	v.kib = anon + shared
	if m[5] != "" {
		v.uid, _ = strconv.Atoi(m[5])
	}
	return v, true
}

// wordDelay bounds how long the kernel's word of a kill may come after its
// signal: it is printed last.
const wordDelay = time.Second

// lastVictims reads the last n victims off the kernel's log. Where none of them
// is wanted, it waits a moment for one that is still to be named. It is false
// where the log can't be read.
func lastVictims(n int, wanted func(victim) bool) ([]victim, bool) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	var all []victim
	for late := time.Now().Add(wordDelay); ; {
		more, err := readVictims(fd)
		if err != nil {
			return nil, false
		}
		all = append(all, more...)
		all = all[max(0, len(all)-n):]
		left := time.Until(late)
		if left <= 0 {
			return all, true
		}
		for _, v := range all {
			if wanted(v) {
				return all, true
			}
		}
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
	}
}

// readVictims reads what there is of the log: each read gives one record,
// "priority,sequence,time,flags;text" (Documentation/ABI/testing/dev-kmsg).
func readVictims(fd int) ([]victim, error) {
	var found []victim
	record := make([]byte, 8192)
	for {
		n, err := unix.Read(fd, record)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return found, nil
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR): // the ring went on over what was to be read
			continue
		case err != nil:
			return nil, fmt.Errorf("cannot read the kernel's log: %w", err)
		case n == 0:
			return nil, errors.New("cannot read the kernel's log: something else is in its place")
		}
		_, text, _ := bytes.Cut(record[:n], []byte(";"))
		lines := bufio.NewScanner(bytes.NewReader(text))
		if lines.Scan() {
			if v, ok := parse(lines.Text()); ok {
				found = append(found, v)
			}
		}
	}
}
