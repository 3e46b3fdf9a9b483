// Package hostclock notices when the host's clock has jumped: because the host
// slept, or because somebody set its clock. A guest's own clock has not.
//
// Nothing is polled. A timer on CLOCK_REALTIME with TFD_TIMER_CANCEL_ON_SET
// (timerfd_create(2)) is cancelled by the kernel at each resume and at each
// setting of the clock; what happened is then read from the clocks themselves:
// CLOCK_BOOTTIME goes on while the host sleeps and CLOCK_MONOTONIC does not.
// A host that is itself a VM and was paused from outside has no such event.
package hostclock

import (
	"context"
	"fmt"
	"time"
)

// Reading is the host's clocks at one moment, each since its own zero
// (clock_gettime(2)).
type Reading struct {
	Realtime, Boottime, Monotonic time.Duration
}

// Source is the host's clocks, or what stands for them in a test.
type Source interface {
	// Wait returns when the clocks may have jumped since the last call.
	Wait(ctx context.Context) error
	Read() (Reading, error)
}

// Jump is how the clocks differ from what they would show had they only gone
// on.
type Jump struct {
	Slept time.Duration // by which CLOCK_BOOTTIME has left CLOCK_MONOTONIC
	Set   time.Duration // by which CLOCK_REALTIME was set, forward or back
}

func (j Jump) String() string {
	if j.Slept >= least {
		return fmt.Sprintf("the host slept for %v", j.Slept.Round(least))
	}
	return fmt.Sprintf("the host's clock was set by %v", j.Set.Round(least))
}

// least is the smallest jump that is told: more than what passes between two
// readings, less than anybody notices.
const least = 100 * time.Millisecond

// Watch tells of every jump until ctx ends or the source fails.
func Watch(ctx context.Context, s Source, tell func(Jump)) error {
	last, err := s.Read()
	if err != nil {
		return err
	}
	for {
		if err := s.Wait(ctx); err != nil {
			return err
		}
		now, err := s.Read()
		if err != nil {
			return err
		}
		if j := between(last, now); j.Slept >= least || j.Set.Abs() >= least {
			tell(j)
		}
		last = now
	}
}

func between(last, now Reading) Jump {
	return Jump{
		Slept: (now.Boottime - now.Monotonic) - (last.Boottime - last.Monotonic),
		Set:   (now.Realtime - now.Boottime) - (last.Realtime - last.Boottime),
	}
}
