// Package cachedir is for directories of files that can be had again: many use
// one at once, and who empties it takes nothing away from any of them.
package cachedir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/banger-vm/banger/internal/filelock"
)

// Dir is a directory with such files.
type Dir struct {
	Path  string
	Files []string // patterns of the files, below Path
}

// Use keeps the files from being removed until what it gives is closed.
func (d Dir) Use(ctx context.Context) (*os.File, error) {
	return d.lock(func(file *os.File) error { return filelock.WaitShared(ctx, file) })
}

func (d Dir) lock(take func(*os.File) error) (*os.File, error) {
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the cache: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(d.Path, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the cache: %w", err)
	}
	if err := take(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock the cache: %w", err)
	}
	return file, nil
}

// Took is how many bytes of the disk the files take that could be removed: none
// while somebody uses them.
func (d Dir) Took() (int64, error) { return d.each(func(string) error { return nil }) }

// Empty removes the files, unless somebody uses them, and gives what they took.
func (d Dir) Empty() (int64, error) { return d.each(os.Remove) }

func (d Dir) each(do func(path string) error) (int64, error) {
	lock, err := d.lock(filelock.Try)
	if errors.Is(err, filelock.ErrHeld) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	var took int64
	for _, pattern := range d.Files {
		files, err := filepath.Glob(filepath.Join(d.Path, pattern))
		if err != nil {
			return took, err
		}
		for _, path := range files {
			info, err := os.Lstat(path)
			if err == nil {
				err = do(path)
			}
			if err != nil {
				return took, fmt.Errorf("cannot empty the cache: %w", err)
			}
			took += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
	}
	return took, nil
}
