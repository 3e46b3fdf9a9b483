package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/internal/filelock"
)

// scratch is a directory for one put or look. Its lock says that it is in use.
type scratch struct {
	dir  string
	lock *os.File
}

// newScratch makes one below dir, and removes those of programs that were killed:
// nobody holds their locks.
func newScratch(ctx context.Context, dir string) (*scratch, error) {
	turn, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory: %w", err)
	}
	defer turn.Close()
	// Without the turn, one that was made and is not locked yet would go.
	if err := filelock.Wait(ctx, turn); err != nil {
		return nil, fmt.Errorf("cannot make a directory: %w", err)
	}
	if err := sweepScratch(dir); err != nil {
		return nil, err
	}
	path, err := os.MkdirTemp(dir, scratchPrefix)
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory: %w", err)
	}
	lock, err := lockScratch(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make a directory: %w", err), os.RemoveAll(path))
	}
	return &scratch{path, lock}, nil
}

const scratchPrefix = "scratch"

func lockScratch(path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := filelock.Try(file); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func sweepScratch(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("cannot look for what was left: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), scratchPrefix) {
			continue
		}
		path := filepath.Join(dir, e.Name())
		lock, err := lockScratch(path)
		if err != nil {
			continue // somebody works in it
		}
		err = os.RemoveAll(path)
		lock.Close()
		if err != nil {
			return fmt.Errorf("cannot remove what was left: %w", err)
		}
	}
	return nil
}

func (s *scratch) remove() {
	os.RemoveAll(s.dir)
	s.lock.Close()
}
