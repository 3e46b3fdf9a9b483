package vm

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk"
)

// A guest whose host has no room left loses writes, and its copy-on-write disk
// becomes invalid. So VMs are paused before that: when less than a reserve is
// free, and they run on when twice that is.
const (
	mostReserve  = 1 << 30
	reserveShare = 10 // of the filesystem: a tenth, where that is less
	// fastest is what all guests together may write in a second at most: it
	// says how soon to look again.
	fastest    = 2 << 30
	lookSoon   = 50 * time.Millisecond
	lookFailed = time.Second // after something could not be done
	lookSeldom = 5 * time.Second
)

// reserve is how much room is kept free on a filesystem.
func reserve(s disk.Space) int64 { return min(mostReserve, s.Total/reserveShare) }

// lookAgain is when the free space could have sunk to the reserve at the
// earliest.
func lookAgain(s disk.Space) time.Duration {
	left := float64(s.Free-reserve(s)) / fastest * float64(time.Second) // bytes times nanoseconds do not fit an integer
	return time.Duration(min(max(left, float64(lookSoon)), float64(lookSeldom)))
}

// WatchSpace pauses VMs while the host's disk is almost full, until ctx ends.
// It costs a statfs every few seconds, and none while no VM runs.
func (m *Manager) WatchSpace(ctx context.Context) {
	for {
		wait := lookSeldom
		if m.anyRun() {
			wait = m.mindSpace(ctx)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (m *Manager) anyRun() bool {
	for _, v := range m.all() {
		if v.running() != nil {
			return true
		}
	}
	return false
}

// mindSpace looks once, and says when to look again.
func (m *Manager) mindSpace(ctx context.Context) time.Duration {
	space, err := disk.SpaceAt(m.StateDir)
	if err != nil {
		m.Log.Error("cannot watch the host's disk", "error", err)
		return lookSeldom
	}
	var failed atomic.Bool
	var all sync.WaitGroup
	for _, v := range m.all() {
		// Side by side: one VMM that hangs must not let the others write on.
		all.Go(func() {
			if err := v.mindSpace(ctx, space); err != nil {
				m.Log.Error("cannot act on a disk that is almost full", "vm", v.record().Name, "error", err)
				failed.Store(true)
			}
		})
	}
	all.Wait()
	if failed.Load() {
		return max(lookAgain(space), lookFailed) // the log may be on the same disk
	}
	return lookAgain(space)
}

// pauseTime is how long a VMM may take to pause or to run on; one that takes
// longer is told again.
const pauseTime = 2 * time.Second

// almostFull begins the reason of a VM that waits for room; by it the next
// daemon knows why the VM is paused.
const almostFull = "the host's disk is almost full"

func (v *machine) mindSpace(ctx context.Context, s disk.Space) error {
	full, room := s.Free < reserve(s), s.Free >= 2*reserve(s)
	if !full && !room {
		return nil
	}
	// One that is being started, stopped or deleted is looked at again soon.
	end, ok := v.tryBegin()
	if !ok {
		return nil
	}
	defer end()
	r, rec := v.running(), v.record()
	ctx, cancel := context.WithTimeout(ctx, pauseTime)
	defer cancel()
	switch {
	case r == nil || r.over():
		return nil
	case full && rec.State == api.StateRunning:
		return v.pause(ctx, r, fmt.Sprintf("%s: %d MiB are free, it runs on when %d MiB are", almostFull, s.Free>>20, 2*reserve(s)>>20))
	case room && (rec.State == api.StatePaused || r.halted):
		return v.resume(ctx, r)
	default:
		return nil
	}
}

// tryBegin takes the VM's turn if nobody has it.
func (v *machine) tryBegin() (end func(), ok bool) {
	select {
	case v.turn <- struct{}{}:
		return func() { <-v.turn }, true
	default:
		return nil, false
	}
}
