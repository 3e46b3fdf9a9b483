package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/progress"
)

// lock takes the lock for building a kernel. The lock's file stays: removing it
// would let two hold it.
func (s *Store) lock(ctx context.Context, name string, report progress.Func) (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(s.Dir, "."+name+".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock kernel %s: %w", name, err)
	}
	err = filelock.Try(file)
	if errors.Is(err, filelock.ErrHeld) {
		report(progress.Event{Step: "wait for another banger that builds this kernel"})
		err = filelock.Wait(ctx, file)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock kernel %s: %w", name, err)
	}
	return func() { file.Close() }, nil
}

// used gives the bytes that a file takes on the host; 0 when there is none.
func used(path string) int64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}
