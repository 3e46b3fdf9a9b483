package hostclock

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"time"
)

// Told is the kernel's clocks in a host that sleeps when a test says so: each
// line of a FIFO is how long it slept, like 90s.
type Told struct {
	fifo  *os.File
	lines *bufio.Scanner
	slept time.Duration
}

// OpenTold opens the FIFO, which must be there.
func OpenTold(path string) (*Told, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0) // read-write: it never ends
	if err != nil {
		return nil, fmt.Errorf("cannot open the test's clock: %w", err)
	}
	return &Told{fifo: f, lines: bufio.NewScanner(f)}, nil
}

// Wait is [Source.Wait].
func (t *Told) Wait(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { t.fifo.Close() })()
	if !t.lines.Scan() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("cannot read the test's clock: %w", t.lines.Err())
	}
	slept, err := time.ParseDuration(t.lines.Text())
	if err != nil {
		return fmt.Errorf("cannot read the test's clock: %w", err)
	}
	t.slept += slept
	return nil
}

// Read is [Source.Read].
func (t *Told) Read() (Reading, error) {
	r, err := readClocks()
	r.Boottime += t.slept
	r.Realtime += t.slept
	return r, err
}

// Close closes the FIFO.
func (t *Told) Close() error { return t.fifo.Close() }
