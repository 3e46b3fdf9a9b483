package guestinit

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// failure is an error with what could not be done. (fmt.Errorf would make the
// program half a megabyte larger.)
type failure struct {
	what string // "mount the root filesystem"
	err  error
}

func (f *failure) Error() string { return "cannot " + f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// cannot wraps err, which may be nil, in what could not be done.
func cannot(what string, err error) error {
	if err == nil {
		return nil
	}
	return &failure{what, err}
}

// kernelLogTail is how many lines of the kernel's log a failure shows.
const kernelLogTail = 40

// die shows the end of the kernel's log and the error on the console, and
// resets the machine: the VMM ends and the host has seen why.
func die(err error) {
	say("\n" + lastLines(kernelLog(), kernelLogTail) + "banger-init: " + err.Error() + "\n")
	unix.Sync()
	drainConsole()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // not reached; a dead PID 1 panics the kernel, which resets it too
}

// say writes to the console, whatever state /dev is in.
func say(text string) {
	out := os.Stderr
	if console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0); err == nil {
		out = console
		defer console.Close()
	}
	_, _ = out.WriteString(text)
}

// drainConsole waits until the last byte has left the serial port; a reset
// would cut it off.
func drainConsole() {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	defer console.Close()
	_ = unix.IoctlSetInt(int(console.Fd()), unix.TCSBRK, 1)
}

// mark leaves a line in the kernel's log, whose time stamps tell how long each
// part of the boot took. On a quiet console it does not show.
func mark(text string) {
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer kmsg.Close()
	_, _ = kmsg.WriteString("<6>banger-init: " + text + "\n")
}

func kernelLog() string {
	size, err := unix.Klogctl(unix.SYSLOG_ACTION_SIZE_BUFFER, nil)
	if err != nil {
		return ""
	}
	buf := make([]byte, size)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}

// lastLines gives the last n lines of text, each with its newline.
func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
