package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

// twentyAtOnce compares twenty sessions at once with what one alone takes, in the
// minute before and in the one after: a machine's speed is not the same for long.
func twentyAtOnce(ctx context.Context, h *host) ([]row, error) {
	byDefault, err := atOnce(ctx, h)
	if err != nil {
		return nil, err
	}
	one, err := atOnce(ctx, h, "--vcpus", "1")
	return []row{byDefault, one}, err
}

func atOnce(ctx context.Context, h *host, flags ...string) (row, error) {
	const many, all, limit = 20, "twenty vm run --rm -- true at once", 1.15
	args := slices.Concat([]string{"vm", "run", "--wait", "agent", "--rm"}, flags, []string{"--", "true"})
	session := func() error { return h.run(args...) }
	if err := session(); err != nil { // the daemon is up, the files are in the page cache
		return row{}, err
	}
	before, err := sample(ctx, 5, session)
	if err != nil {
		return row{}, err
	}
	together, err := median(ctx, 1, func() error {
		var sessions errgroup.Group
		for range many {
			sessions.Go(session)
		}
		return sessions.Wait()
	})
	if err != nil {
		return row{}, err
	}
	after, err := sample(ctx, 5, session)
	if err != nil {
		return row{}, err
	}
	single, cores := middle(append(before, after...)), runtime.NumCPU()
	name := strings.Join(append([]string{all}, flags...), " ")
	return compare(name, together, fmt.Sprintf("20 × one alone ÷ %d processors", cores), single*many/time.Duration(cores), limit), nil
}

// clockDrift compares how a minute passes in a guest and on its host.
func clockDrift(ctx context.Context, h *host) ([]row, error) {
	if err := h.run("vm", "create", "--name", "clock", "--wait", "system"); err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "clock")
	c := client.New(client.Options{Runtime: filepath.Join(h.dir, "banger")}).AnyVersion()
	defer c.Close()
	const span, most = time.Minute, 0.001
	from, err := readClocks(ctx, c)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(span):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	to, err := readClocks(ctx, c)
	if err != nil {
		return nil, err
	}
	here := to.host.Sub(from.host)
	drift := math.Abs((to.guest - from.guest - here).Seconds()) / here.Seconds()
	return []row{{
		name: "drift of a guest's clock in a minute", value: fmt.Sprintf("%.4f %%", 100*drift),
		against: fmt.Sprintf("the limit: %.1f %%", 100*most), ratio: drift / most, limit: 1,
	}}, nil
}

// clocks are what two clocks showed at one moment.
type clocks struct {
	host  time.Time // with its monotonic reading
	guest time.Duration
}

// readClocks reads the guest's clock many times, and takes the reading whose
// moment is known best.
func readClocks(ctx context.Context, c *client.Client) (clocks, error) {
	var best clocks
	least := time.Duration(math.MaxInt64)
	for range 20 {
		before := time.Now()
		guest, err := guestClock(ctx, c)
		if err != nil {
			return clocks{}, err
		}
		if took := time.Since(before); took < least {
			least, best = took, clocks{before.Add(took / 2), guest}
		}
	}
	return best, nil
}

// guestClock is the time since 1970 in the guest.
func guestClock(ctx context.Context, c *client.Client) (time.Duration, error) {
	command, err := c.Exec(ctx, "clock", api.ExecRequest{Argv: []string{"date", "+%s.%N"}})
	if err != nil {
		return 0, err
	}
	var out, said strings.Builder
	if _, err := command.Run(ctx, nil, &out, &said); err != nil {
		return 0, err
	}
	seconds, nanoseconds, _ := strings.Cut(strings.TrimSpace(out.String()), ".")
	s, err := strconv.ParseInt(seconds, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("the guest's date is %q: %s", out.String(), said.String())
	}
	n, err := strconv.ParseInt(nanoseconds, 10, 64)
	return time.Duration(s)*time.Second + time.Duration(n), err
}
