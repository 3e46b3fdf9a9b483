//go:build amd64

package tsc

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"
)

func TestKHzAgreesWithALongerMeasurement(t *testing.T) {
	ctx := context.Background()
	long := Begin()
	const runs = 10
	short := make([]uint64, runs)
	for i := range short {
		khz, err := Begin().KHz(ctx)
		if err != nil {
			t.Fatal(err)
		}
		short[i] = khz
	}
	want, err := long.KHz(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, khz := range short {
		ppm := math.Abs(float64(khz)-float64(want)) / float64(want) * 1e6
		if ppm > 100 {
			t.Errorf("over %v: %d kHz, over %d times as long: %d kHz; %.0f ppm apart", Baseline, khz, runs, want, ppm)
		}
	}
}

func TestKHzWaitsOnlyForWhatIsLeft(t *testing.T) {
	m := Begin()
	if _, err := m.KHz(context.Background()); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.KHz(over); err != nil {
		t.Errorf("the second call waits although the baseline has passed: %v", err)
	}
}

func TestKHzEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	m := Begin()
	m.first.nanos += time.Hour.Nanoseconds() // so that it waits, however slow the test is
	if _, err := m.KHz(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestRateRefusesWhatCannotBe(t *testing.T) {
	for name, c := range map[string]struct{ from, to reading }{
		"counter went back": {reading{1000, 0}, reading{10, 1000}},
		"counter stood":     {reading{1000, 0}, reading{1000, 1000}},
		"clock stood":       {reading{0, 5}, reading{1000, 5}},
		"far too fast":      {reading{0, 0}, reading{1 << 40, 1000}},
		"far too slow":      {reading{0, 0}, reading{1, 1e9}},
	} {
		if khz, err := rate(c.from, c.to); err == nil {
			t.Errorf("%s: got %d kHz, want an error", name, khz)
		}
	}
	if khz, err := rate(reading{100, 100}, reading{100 + 2_596_128, 100 + 1_000_000}); err != nil || khz != 2_596_128 {
		t.Errorf("got %d kHz, %v; want 2596128", khz, err)
	}
}
