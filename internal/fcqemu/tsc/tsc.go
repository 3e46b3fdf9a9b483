// Package tsc measures the rate of the processor's time-stamp counter.
//
// QEMU's software processor passes the host's counter through to the guest,
// and the guest's kernel can only guess its rate: about one boot in twelve
// hangs for ever over that guess. So the rate is measured here and told to the
// kernel, in kHz, which makes it the rate of every clock in the guest: an
// error of 1 % would be 36 seconds an hour. /proc/cpuinfo is no source, it
// may name another frequency than the counter's.
package tsc

import (
	"context"
	"fmt"
	"time"
)

// Baseline is how far apart the two readings of a measurement are at least.
// Each reading is right to about 100 ns (the best of many), so this is good
// to 10 parts in a million.
const Baseline = 20 * time.Millisecond

// Believable rates; anything else is a counter that stood still or jumped.
const (
	minKHz = 100_000
	maxKHz = 20_000_000
)

// reading is the counter and the clock at one moment.
type reading struct {
	ticks uint64
	nanos int64
}

// Measurement is a measurement under way.
type Measurement struct{ first reading }

// Begin takes the first reading.
func Begin() *Measurement { return &Measurement{first: read()} }

// KHz takes the second reading, not before [Baseline] has passed since the
// first, and returns the counter's rate in kHz, rounded. The longer ago Begin
// was called the better is the result, and the less is there to wait for.
func (m *Measurement) KHz(ctx context.Context) (uint64, error) {
	if !supported {
		return 0, fmt.Errorf("cannot read a time-stamp counter on this kind of processor")
	}
	now := read()
	if left := Baseline - time.Duration(now.nanos-m.first.nanos); left > 0 {
		if err := wait(ctx, left); err != nil {
			return 0, err
		}
		now = read()
	}
	return rate(m.first, now)
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func rate(from, to reading) (uint64, error) {
	nanos := to.nanos - from.nanos
	if nanos <= 0 || to.ticks <= from.ticks {
		return 0, fmt.Errorf("cannot measure the time-stamp counter: it went from %d to %d in %d ns", from.ticks, to.ticks, nanos)
	}
	khz := uint64(float64(to.ticks-from.ticks)/float64(nanos)*1e6 + 0.5)
	if khz < minKHz || khz > maxKHz {
		return 0, fmt.Errorf("cannot measure the time-stamp counter: %d kHz is no believable rate", khz)
	}
	return khz, nil
}

// read reads both as close together as it can: of many tries it keeps the one
// with the fewest ticks around the clock's reading, which no interrupt hit.
func read() reading {
	const tries = 64
	best := reading{}
	closest := ^uint64(0)
	for range tries {
		before := counter()
		nanos := rawClock()
		after := counter()
		if after-before < closest {
			closest = after - before
			best = reading{ticks: before + closest/2, nanos: nanos}
		}
	}
	return best
}
