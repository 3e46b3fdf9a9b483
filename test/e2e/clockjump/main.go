//go:build linux

// Command clockjump runs in a guest: it sets the clock forward by its argument,
// if there is one, and prints the next jump of the clock that the kernel tells
// of, be it this one or the host's doing.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/hostclock"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	clock, err := hostclock.OpenKernel()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	armed := &noted{Kernel: clock, when: shift}
	_ = hostclock.Watch(ctx, armed, func(j hostclock.Jump) {
		fmt.Println(j.Set.Round(time.Second))
		cancel()
	})
	return armed.err
}

// noted does something once the first reading is taken.
type noted struct {
	*hostclock.Kernel
	when func() error
	err  error
}

func (n *noted) Read() (hostclock.Reading, error) {
	r, err := n.Kernel.Read()
	if n.when != nil && err == nil {
		n.err, n.when = n.when(), nil
		err = n.err
	}
	return r, err
}

func shift() error {
	fmt.Println("up")
	if len(os.Args) < 2 {
		return nil
	}
	by, err := time.ParseDuration(os.Args[1])
	if err != nil {
		return err
	}
	to := unix.NsecToTimespec(time.Now().Add(by).UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &to)
}
