package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/proc"
)

// Sweep ends every process that runs in dir, which is a VMM's and its own
// children's working directory, and returns when they are gone. It is for what
// a daemon left that died between a VMM's start and its record.
func Sweep(ctx context.Context, dir string) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Errorf("cannot look for left-over VMMs: %w", err)
	}
	var errs []error
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !worksIn(pid, dir) {
			continue
		}
		errs = append(errs, sweepOne(ctx, pid, dir))
	}
	return errors.Join(errs...)
}

func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "cwd"))
	return err == nil && (cwd == dir || cwd == dir+" (deleted)")
}

func sweepOne(ctx context.Context, pid int, dir string) error {
	id, err := proc.Of(pid)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	held, err := proc.Open(id)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Close()
	// The pid may have become another process's between the two looks.
	if !worksIn(pid, dir) {
		return nil
	}
	if err := held.Signal(unix.SIGKILL); err != nil && !errors.Is(err, proc.ErrGone) {
		return fmt.Errorf("cannot end left-over process %d: %w", pid, err)
	}
	select {
	case <-held.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("cannot see the end of left-over process %d: %w", pid, context.Cause(ctx))
	}
}
