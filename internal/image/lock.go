package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/cachedir"
	"github.com/banger-vm/banger/internal/progress"
)

// tempPrefix begins the names of unfinished directories. They are hidden, so
// no image can have such a name, and only who holds the image's lock makes or
// removes them.
func tempPrefix(name string) string { return ".unfinished-" + name + "~" }

// lock waits for the image's lock, which works between processes and between
// goroutines alike, and removes what a killed holder left. report, when not
// nil, is told that there is somebody to wait for.
func (s *Store) lock(ctx context.Context, name string, report progress.Func) (unlock func(), err error) {
	file, err := s.lockFile(ctx, name, report)
	if err != nil {
		return nil, err
	}
	return func() { file.Close() }, nil
}

func (s *Store) lockFile(ctx context.Context, name string, report progress.Func) (*os.File, error) {
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the image store: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(s.Dir, "."+name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock image %s: %w", name, err)
	}
	if err := cachedir.Flock(file, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		if report != nil {
			report(progress.Event{Step: StepWait})
		}
		if err := waitForLock(ctx, file); err != nil {
			return nil, fmt.Errorf("cannot lock image %s: %w", name, err)
		}
	} else if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock image %s: %w", name, err)
	}
	if err := s.removeUnfinished(name); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// waitForLock closes file when ctx ends first.
func waitForLock(ctx context.Context, file *os.File) error {
	locked := make(chan error, 1)
	go func() { locked <- cachedir.Flock(file, unix.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			file.Close()
		}
		return err
	case <-ctx.Done():
		go func() { <-locked; file.Close() }() //nolint:errcheck // whoever wanted the lock is gone
		return context.Cause(ctx)
	}
}

func (s *Store) removeUnfinished(name string) error {
	left, err := filepath.Glob(filepath.Join(s.Dir, tempPrefix(name)+"*"))
	if err != nil {
		return fmt.Errorf("cannot look for unfinished images: %w", err)
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("cannot remove an unfinished image: %w", err)
		}
	}
	return nil
}
