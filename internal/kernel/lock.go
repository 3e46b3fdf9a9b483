package kernel

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/progress"
)

// lockRetry is how often a build that waits for another one's end looks.
const lockRetry = 100 * time.Millisecond

// lock takes the lock for building a kernel. The lock's file stays: removing it
// would let two hold it.
func (s *Store) lock(ctx context.Context, name string, report progress.Func) (unlock func(), err error) {
	l := flock.New(filepath.Join(s.Dir, "."+name+".lock"))
	got, err := l.TryLock()
	if err == nil && !got {
		report(progress.Event{Step: "wait for another banger that builds this kernel"})
		got, err = l.TryLockContext(ctx, lockRetry)
	}
	if err != nil || !got {
		return nil, fmt.Errorf("cannot lock kernel %s: %w", name, err)
	}
	return func() { _ = l.Close() }, nil
}

// used gives the bytes that a file takes on the host; 0 when there is none.
func used(path string) int64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0
	}
	return st.Blocks * 512
}
