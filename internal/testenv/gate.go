package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Gate is a closed gate before one step of a bangerd that was started with
// BANGERD_HALT=dir: who comes to the step halts there.
type Gate struct {
	path string
	held *os.File
}

// CloseGate closes the gate before a step.
func CloseGate(dir, step string) (*Gate, error) {
	g := &Gate{path: filepath.Join(dir, step)}
	if err := unix.Mkfifo(g.path, 0o600); err != nil {
		return nil, fmt.Errorf("cannot close the gate before %s: %w", step, err)
	}
	return g, nil
}

// Await waits until somebody stands before the gate, and sees to it that nobody
// else comes to.
func (g *Gate) Await(limit time.Duration) error {
	defer os.Remove(g.path)
	came := make(chan error, 1)
	go func() {
		var err error
		g.held, err = os.OpenFile(g.path, os.O_WRONLY, 0) // waits for the other side
		came <- err
	}()
	select {
	case err := <-came:
		return err
	case <-time.After(limit):
		g.giveUp()
		<-came
		return fmt.Errorf("nobody came to step %s within %v", filepath.Base(g.path), limit)
	}
}

// giveUp is the other side for Await.
func (g *Gate) giveUp() {
	if fd, err := unix.Open(g.path, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		unix.Close(fd)
	}
}

// Open lets go on who was awaited.
func (g *Gate) Open() { g.held.Close() }
