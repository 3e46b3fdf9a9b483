package hostclock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// script is a source of readings, one for each event.
type script []Reading

var errOver = errors.New("the script is over")

func (s *script) Wait(context.Context) error {
	if len(*s) == 1 {
		return errOver
	}
	*s = (*s)[1:]
	return nil
}

func (s *script) Read() (Reading, error) { return (*s)[0], nil }

func TestWatchTellsOfJumpsAndOfNothingElse(t *testing.T) {
	const boot = 1000 * time.Hour // the clock's zero is long before
	for name, tt := range map[string]struct {
		readings script
		want     []string
	}{
		"time goes on": {
			script{{boot, 0, 0}, {boot + time.Hour, time.Hour, time.Hour}}, nil,
		},
		"between two readings": {
			script{{boot, 0, 0}, {boot + 3*time.Millisecond, 2 * time.Millisecond, time.Millisecond}}, nil,
		},
		"sleep": {
			script{{boot, 0, 0}, {boot + 9*time.Hour, 9 * time.Hour, time.Hour}}, []string{"the host slept for 8h0m0s"},
		},
		"two sleeps": {
			script{{boot, 0, 0}, {boot + time.Minute, time.Minute, 0}, {boot + 3*time.Minute, 3 * time.Minute, 0}},
			[]string{"the host slept for 1m0s", "the host slept for 2m0s"},
		},
		"the same sleep twice": {
			script{{boot, 0, 0}, {boot + time.Minute, time.Minute, 0}, {boot + time.Minute, time.Minute, 0}},
			[]string{"the host slept for 1m0s"},
		},
		"set forward": {
			script{{boot, 0, 0}, {boot + time.Minute, 0, 0}}, []string{"the host's clock was set by 1m0s"},
		},
		"set back": {
			script{{boot, 0, 0}, {boot - time.Minute, 0, 0}}, []string{"the host's clock was set by -1m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			err := Watch(t.Context(), &tt.readings, func(j Jump) { told = append(told, j.String()) })
			if !errors.Is(err, errOver) {
				t.Error(err)
			}
			if fmt.Sprint(told) != fmt.Sprint(tt.want) {
				t.Errorf("it told %q, not %q", told, tt.want)
			}
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	kernel, err := OpenKernel()
	if err != nil {
		t.Fatal(err)
	}
	defer kernel.Close()
	fifo := filepath.Join(t.TempDir(), "clock")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	told, err := OpenTold(fifo)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("it is over")
	for name, source := range map[string]Source{"kernel": kernel, "told": told} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- Watch(ctx, source, func(j Jump) { t.Errorf("it told of a jump: %v", j) }) }()
			cancel(why)
			if err := <-ended; !errors.Is(err, why) {
				t.Error(err)
			}
		})
	}
}

func TestToldSleeps(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "clock")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	told, err := OpenTold(fifo)
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	if err := os.WriteFile(fifo, []byte("0s\n1m\n"), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var jumps []Jump
	_ = Watch(ctx, told, func(j Jump) {
		jumps = append(jumps, j)
		cancel()
	})
	if len(jumps) != 1 || jumps[0].Slept.Round(time.Second) != time.Minute {
		t.Errorf("jumps: %v", jumps)
	}
}
