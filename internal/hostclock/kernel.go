package hostclock

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Kernel is the running kernel's clocks. Close gives its timer back.
type Kernel struct{ timer *os.File }

// OpenKernel arms the timer that the kernel cancels when the clock jumps.
func OpenKernel() (*Kernel, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot make a timer on the host's clock: %w", err)
	}
	never := unix.ItimerSpec{Value: unix.Timespec{Sec: math.MaxInt64}}
	if err := unix.TimerfdSettime(fd, unix.TFD_TIMER_ABSTIME|unix.TFD_TIMER_CANCEL_ON_SET, &never, nil); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot watch the host's clock: %w", err)
	}
	return &Kernel{os.NewFile(uintptr(fd), "timerfd")}, nil
}

// Wait is [Source.Wait].
func (k *Kernel) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = k.timer.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := k.timer.Read(make([]byte, 8))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, unix.ECANCELED):
		return nil
	default:
		return fmt.Errorf("cannot watch the host's clock: %w", err)
	}
}

// Read is [Source.Read].
func (k *Kernel) Read() (Reading, error) { return readClocks() }

// Close gives the timer back.
func (k *Kernel) Close() error { return k.timer.Close() }

func readClocks() (Reading, error) {
	var r Reading
	for _, c := range []struct {
		id int32
		to *time.Duration
	}{
		{unix.CLOCK_MONOTONIC, &r.Monotonic}, {unix.CLOCK_BOOTTIME, &r.Boottime}, {unix.CLOCK_REALTIME, &r.Realtime},
	} {
		var ts unix.Timespec
		if err := unix.ClockGettime(c.id, &ts); err != nil {
			return Reading{}, fmt.Errorf("cannot read the host's clock: %w", err)
		}
		*c.to = time.Duration(ts.Nano())
	}
	return r, nil
}
