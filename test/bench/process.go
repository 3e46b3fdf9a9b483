package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/testenv"
)

// daemonPID is the process of the host's bangerd.
func (h *host) daemonPID() (int, error) {
	out, err := h.banger("daemon", "status", "--json").Output()
	if err != nil {
		return 0, fmt.Errorf("cannot ask for bangerd's process: %w", err)
	}
	var status struct{ PID int }
	return status.PID, json.Unmarshal(out, &status)
}

func (h *host) killDaemon() error {
	pid, err := h.daemonPID()
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("cannot kill bangerd: %w", err)
	}
	return testenv.AwaitEnd(pid, time.Minute)
}

// daemonMemory is what bangerd and the keeper that it started have resident, in
// KiB.
func (h *host) daemonMemory() (int64, error) {
	pid, err := h.daemonPID()
	if err != nil {
		return 0, err
	}
	sum, err := statusValue(pid, "VmRSS")
	if err != nil {
		return 0, err
	}
	for _, child := range children(pid) {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child))
		if err != nil || filepath.Base(exe) != "bangerd" {
			continue
		}
		resident, err := statusValue(child, "VmRSS")
		if err != nil {
			return 0, err
		}
		sum += resident
	}
	return sum, nil
}

// children are the processes that a process has started and not survived.
func children(pid int) []int {
	var all []int
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // the thread may have ended
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				all = append(all, child)
			}
		}
	}
	return all
}

// statusValue is a number of /proc/PID/status.
func statusValue(pid int, name string) (int64, error) {
	return valueIn(fmt.Sprintf("/proc/%d/status", pid), name)
}

func valueIn(path, name string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
		}
	}
	return 0, fmt.Errorf("no %s in %s", name, path)
}

// wakeUps counts how often in a second one of the daemon's threads gets a
// processor.
func (h *host) wakeUps(ctx context.Context) (float64, error) {
	pid, err := h.daemonPID()
	if err != nil {
		return 0, err
	}
	const idle = 20 * time.Second
	before, err := switches(pid)
	if err != nil {
		return 0, err
	}
	select {
	case <-time.After(idle):
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	after, err := switches(pid)
	return float64(after-before) / idle.Seconds(), err
}

func switches(pid int) (int64, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, task := range tasks {
		slept, err := valueIn(task, "voluntary_ctxt_switches")
		if err != nil {
			return 0, err
		}
		sum += slept
	}
	return sum, nil
}

// memory is a row of an amount of memory, in KiB.
func memory(name string, here int64, against string, limit int64) row {
	mib := func(kib int64) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
	return row{
		name: name, value: mib(here), against: against + ": " + mib(limit),
		ratio: float64(here) / float64(limit), limit: 1,
	}
}
