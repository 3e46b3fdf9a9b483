package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/internal/filelock"
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
	err = filelock.Try(file)
	if errors.Is(err, filelock.ErrHeld) {
		if report != nil {
			report(progress.Event{Step: StepWait})
		}
		err = filelock.Wait(ctx, file)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock image %s: %w", name, err)
	}
	if err := s.removeUnfinished(name); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
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
