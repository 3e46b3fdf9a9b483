package fctest

import (
	"bufio"
	"context"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/firecracker/fctest/script"
)

// console reads a guest's serial console from a pipe.
type console struct {
	t    *testing.T
	pipe *os.File // the VMM's stdout

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed at the next line
}

func newConsole(t *testing.T) *console {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, pipe: write, more: make(chan struct{})}
	go c.read(read)
	t.Cleanup(func() {
		write.Close()
		if t.Failed() {
			t.Logf("the console:\n%s", strings.Join(c.all(), "\n"))
		}
	})
	return c
}

func (c *console) read(from *os.File) {
	defer from.Close()
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		c.mu.Lock()
		c.lines = append(c.lines, strings.TrimRight(lines.Text(), "\r"))
		close(c.more)
		c.more = make(chan struct{})
		c.mu.Unlock()
	}
}

func (c *console) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.lines...)
}

// await returns the first line that holds part, once it is there.
func (c *console) await(within time.Duration, part string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), within)
	defer cancel()
	for {
		c.mu.Lock()
		lines, more := c.lines, c.more
		c.mu.Unlock()
		for _, line := range lines {
			if strings.Contains(line, part) {
				return line
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			c.t.Fatalf("the console never said %q", part)
		}
	}
}

// facts are the guest's own lines, without their prefix.
func (c *console) facts() []string {
	var facts []string
	for _, line := range c.all() {
		if _, fact, ok := strings.Cut(line, script.Prefix); ok {
			facts = append(facts, fact)
		}
	}
	return facts
}

// exitStatus is the status as a shell shows it.
func exitStatus(state *os.ProcessState) int {
	wait := state.Sys().(syscall.WaitStatus)
	if wait.Signaled() {
		return 128 + int(wait.Signal())
	}
	return wait.ExitStatus()
}
