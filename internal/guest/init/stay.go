package guestinit

import (
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// termGrace is how long processes have to end by themselves.
	termGrace = 5 * time.Second
	// killGrace is how long dead processes have to be gone.
	killGrace = 2 * time.Second

	// glibc's SIGRTMIN, which systemd's signals to PID 1 count from.
	sigRTMin = 34
)

// endings says which signal to PID 1 ends the machine how: busybox's and
// systemd's conventions both. Ctrl-Alt-Del comes as SIGINT.
var endings = map[os.Signal]int{
	syscall.SIGUSR1:              unix.LINUX_REBOOT_CMD_POWER_OFF,
	syscall.SIGUSR2:              unix.LINUX_REBOOT_CMD_POWER_OFF,
	syscall.Signal(sigRTMin + 3): unix.LINUX_REBOOT_CMD_POWER_OFF,
	syscall.Signal(sigRTMin + 4): unix.LINUX_REBOOT_CMD_POWER_OFF,
	syscall.SIGTERM:              unix.LINUX_REBOOT_CMD_RESTART,
	syscall.SIGINT:               unix.LINUX_REBOOT_CMD_RESTART,
	syscall.Signal(sigRTMin + 5): unix.LINUX_REBOOT_CMD_RESTART,
}

// stay is PID 1's life in an image without an init: it reaps the dead until it
// is asked to end the machine. agent is the agent's process id. It does not
// return.
func stay(agent int) error {
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	_ = makeDir("/tmp", 0o1777) // a root that can't have it is usable all the same
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGCHLD)
	for s := range endings {
		signal.Notify(signals, s)
	}
	mark("this image has no init; staying")
	for {
		reap()
		s := <-signals
		if how, ok := endings[s]; ok {
			end(how, agent, signals)
		}
	}
}

// reap collects every process that has ended.
func reap() {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 {
			return
		}
	}
}

// end ends all processes, the agent last, writes everything to the disk and
// powers off or resets the machine.
func end(how, agent int, signals <-chan os.Signal) {
	// A stopped process would only get its signal when it goes on.
	for _, pid := range others(agent) {
		_ = unix.Kill(pid, unix.SIGTERM)
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	awaitEnd(termGrace, signals, func() bool { return len(others(agent)) == 0 })
	_ = unix.Kill(-1, unix.SIGKILL)
	awaitEnd(killGrace, signals, func() bool { return len(others(0)) == 0 })
	unix.Sync()
	unmountAll()
	unix.Sync()
	drainConsole()
	_ = unix.Reboot(how)
	os.Exit(1) // not reached
}

// awaitEnd reaps until gone says so or the time is over.
func awaitEnd(limit time.Duration, signals <-chan os.Signal, gone func() bool) {
	over := time.After(limit)
	for {
		reap()
		if gone() {
			return
		}
		select {
		case <-signals:
		case <-over:
			return
		}
	}
}

// others lists the processes of the machine but PID 1, the one given and the
// kernel's own.
func others(except int) []int {
	entries, _ := os.ReadDir("/proc")
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == 1 || pid == except {
			continue
		}
		// The kernel's threads have no command line, nor have the dead.
		cmdline, err := os.ReadFile("/proc/" + entry.Name() + "/cmdline")
		if err == nil && len(cmdline) > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmountAll unmounts what can be, the newest first, and makes the root
// read-only, which writes its last metadata.
func unmountAll() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for _, at := range newestFirst(string(mounts)) {
		switch at {
		case "/", "/proc", "/sys", "/dev", "/run":
		default:
			_ = unix.Unmount(at, 0)
		}
	}
	_ = unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// newestFirst gives the mount points of /proc/self/mounts backwards.
func newestFirst(mounts string) []string {
	var points []string
	for line := range strings.Lines(mounts) {
		if fields := strings.Fields(line); len(fields) > 1 {
			points = append([]string{unescape(fields[1])}, points...)
		}
	}
	return points
}

// unescape undoes the octal escapes of /proc/self/mounts ("\040" is a space).
func unescape(text string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+3 < len(text) {
			if code, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(text[i])
	}
	return out.String()
}
