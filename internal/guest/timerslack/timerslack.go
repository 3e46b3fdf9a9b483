// Package timerslack lets the timers of a program in a guest be late, so that
// several end at once.
//
// The Go runtime has a thread of its own that looks after the others and naps
// for 20 µs in between, for as long as anything runs. Each nap is a timer of the
// guest's processor, and in a VM each such timer is work for the VMM, with
// software emulation most of all: it was a fifteenth of a guest's start. With
// slack, which the kernel gives every thread (timerslack in proc(5)), the naps
// end with the next tick or with another thread's timer.
//
// Programs inherit the slack of the thread that starts them. What a guest's user
// runs is started by [Punctual]; the short helpers of banger's own, such as git
// and journalctl, are not. (It keeps away from fmt, as banger-init
// does, for its size.)
package timerslack

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	// slack is how late a timer of banger's own may be, in nanoseconds.
	slack = 4_000_000
	// usual is what Linux gives its first process (INIT_TASK).
	usual = 50_000
)

// Relax lets the timers of all threads of this program be up to 4 ms late, and
// so those of the threads and programs that they start. It needs CAP_SYS_NICE.
func Relax() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		file := "/proc/" + thread.Name() + "/timerslack_ns"
		if err := os.WriteFile(file, []byte(strconv.Itoa(slack)), 0); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}

// Punctual calls start, on a thread whose timers are as punctual as Linux makes
// those of any program: what start starts inherits that.
func Punctual(start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if err := set(usual); err != nil {
		return err
	}
	defer func() { _ = set(before) }() // as it could be set before
	return start()
}

func set(ns int) error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(ns), 0, 0, 0))
}
