package tsc

import "golang.org/x/sys/unix"

// rawClock is CLOCK_MONOTONIC_RAW in nanoseconds, which no time daemon bends.
func rawClock() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC_RAW, &t); err != nil {
		return 0 // every Linux has it; a zero is refused as a clock that stands still
	}
	return t.Nano()
}
