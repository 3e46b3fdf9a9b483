// Command count runs banger's test suites one after the other, counts their
// tests and says so in the last line: "N passed, N failed". A skipped test
// counts as failed: a suite that skips has not tested.
//
//	go run ./test/count unit host vm e2e nested
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// suite is a set of tests that run under the same conditions.
type suite struct {
	name     string
	about    string
	tag      string // only tests of files with this build tag, and with it set
	packages []string
	flags    []string
	store    bool // needs the default image and kernel
	loud     bool // name every test that passed
}

var suites = []suite{
	{name: "unit", about: "unit tests with the race detector, fuzz seeds (no root, no VM)",
		packages: []string{"./..."}, flags: []string{"-race", "-timeout=10m"}},
	{name: "host", about: "network, disk and processes against the real kernel; VMs' lives and deaths on a VMM of the tests",
		tag: "hosttest", packages: []string{"./internal/...", "./test/lives"}, flags: []string{"-timeout=10m"}},
	{name: "vm", about: "fcqemu and its guests, and what every VMM must keep",
		tag: "vmtest", packages: []string{"./internal/..."}, flags: []string{"-p=1", "-timeout=15m"}, store: true},
	{name: "e2e", about: "the real CLI, daemon and guests",
		tag: "e2e", packages: []string{"./test/e2e/..."}, flags: []string{"-timeout=30m"}, store: true, loud: true},
	{name: "nested", about: "the real firecracker",
		tag: "nested", packages: []string{"./test/nested"}, flags: []string{"-timeout=45m"}, store: true, loud: true},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	chosen, err := choose(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "count:", err)
		os.Exit(2)
	}
	os.Exit(run(ctx, chosen))
}

func choose(names []string) ([]suite, error) {
	var chosen []suite
	for _, name := range names {
		found := false
		for _, s := range suites {
			if s.name == name {
				chosen, found = append(chosen, s), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no suite %q", name)
		}
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("name at least one suite")
	}
	return chosen, nil
}

// run runs every suite, also after one has failed, and gives the exit status.
func run(ctx context.Context, chosen []suite) int {
	var all tally
	prepared := false
	for _, s := range chosen {
		if ctx.Err() != nil {
			all.fail("interrupted before " + s.name)
			break
		}
		fmt.Printf("=== %s: %s\n", s.name, s.about)
		begun := time.Now()
		if s.store && !prepared {
			if err := fillStore(ctx); err != nil {
				all.fail("store: " + err.Error())
				break
			}
			prepared = true
		}
		one := s.run(ctx, os.Stdout)
		fmt.Printf("=== %s: %d passed, %d failed, %s\n\n", s.name, one.passed, len(one.failures), time.Since(begun).Round(time.Second))
		all.add(one)
	}
	fmt.Print(all)
	if len(all.failures) > 0 {
		return 1
	}
	return 0
}
