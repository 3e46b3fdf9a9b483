// Command bench measures banger and prints each figure beside a floor or a peer
// that was measured in the same run, on the same machine: only the ratios mean
// anything elsewhere. It needs root, the default image and kernel, and build/.
//
//	go run ./test/bench            everything that runs on this host
//	go run ./test/bench -only exec only the measures whose names hold "exec"
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/testenv"
)

// row is one line of the table.
type row struct {
	name    string
	value   string
	against string  // what it is compared with, and its value
	ratio   float64 // 0: none
	limit   float64 // 0: reported without one
}

// measure makes rows.
type measure struct {
	name string
	run  func(context.Context, *host) ([]row, error)
}

var measures = []measure{
	{"cold start", coldStart},
	{"forty boots", fortyBoots},
	{"exec", execLatency},
	{"throughput", throughput},
	{"workspace", workspaces},
	{"container image", containerPull},
	{"bundle", bundlePull},
	{"second VM", secondVM},
	{"daemon", daemonCosts},
	{"twenty", twentyAtOnce},
	{"clock", clockDrift},
}

func main() {
	only := flag.String("only", "", "run only the measures whose names hold this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if what := os.Getenv(pullVar); what != "" {
		if err := pullHere(ctx, what); err != nil {
			fail(err)
		}
		return
	}
	if !testenv.Entered() {
		if err := fetch(ctx, *only); err != nil {
			fail(err)
		}
	}
	if err := testenv.Enter(); err != nil {
		fail(err)
	}
	if err := run(ctx, *only); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// fetch does what needs the host's own network, before the rest runs in a
// namespace that has none.
func fetch(ctx context.Context, only string) error {
	if strings.Contains("image", only) {
		rows, err := imageBuild(ctx)
		for _, r := range rows {
			fmt.Println(r)
		}
		if err != nil {
			return fmt.Errorf("cannot measure the image's build: %w", err)
		}
	}
	return makeStock(ctx)
}

func run(ctx context.Context, only string) error {
	world, err := testenv.NewWorld()
	if err != nil {
		return err
	}
	defer world.Close()
	h, err := newHost()
	if err != nil {
		return err
	}
	defer h.close()
	fmt.Println(h)
	fmt.Printf("%-58s %12s   %-44s %7s %7s\n", "what", "here", "against", "ratio", "limit")
	broken := 0
	for _, m := range measures {
		if !strings.Contains(m.name, only) {
			continue
		}
		rows, err := m.run(ctx, h)
		for _, r := range rows {
			fmt.Println(r)
			if r.limit > 0 && r.ratio > r.limit {
				broken++
			}
		}
		if err != nil {
			return fmt.Errorf("cannot measure %s: %w", m.name, err)
		}
	}
	if broken > 0 {
		return fmt.Errorf("%d figures are over their limit", broken)
	}
	return nil
}

func (r row) String() string {
	line := fmt.Sprintf("%-58s %12s   %-44s", r.name, r.value, r.against)
	if r.ratio > 0 {
		line += fmt.Sprintf(" %7.2f", r.ratio)
	}
	if r.limit > 0 {
		line += fmt.Sprintf(" %7.2f", r.limit)
		if r.ratio > r.limit {
			line += "  OVER"
		}
	}
	return line
}

// compare is a row of two durations.
func compare(name string, here time.Duration, against string, there time.Duration, limit float64) row {
	return row{
		name: name, value: short(here), against: fmt.Sprintf("%s: %s", against, short(there)),
		ratio: here.Seconds() / there.Seconds(), limit: limit,
	}
}

func short(d time.Duration) string {
	if d < time.Second {
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

// repository is where the build is.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("run it inside of banger's repository")
}
