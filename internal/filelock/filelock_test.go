package filelock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// opened opens a file for itself.
func opened(t *testing.T, path string) *os.File {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func TestOneHoldsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, second := opened(t, path), opened(t, path)
	if err := Try(first); err != nil {
		t.Fatal(err)
	}
	if err := Try(second); !errors.Is(err, ErrHeld) {
		t.Errorf("a second one: %v", err)
	}
	first.Close()
	if err := Try(second); err != nil {
		t.Errorf("when it is free: %v", err)
	}
}

func TestManyShareIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 2 {
		if err := WaitShared(t.Context(), opened(t, path)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Try(opened(t, path)); !errors.Is(err, ErrHeld) {
		t.Errorf("one alone: %v", err)
	}
}

// TestTheLockIsFreeOnceItsFileIsClosed has no moment in which Wait's own
// descriptor holds what its caller has let go.
func TestTheLockIsFreeOnceItsFileIsClosed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	for range 1000 {
		file := opened(t, path)
		if err := Wait(t.Context(), file); err != nil {
			t.Fatal(err)
		}
		file.Close()
		next := opened(t, path)
		if err := Try(next); err != nil {
			t.Fatal(err)
		}
		next.Close()
	}
}

// TestAWaitIsGivenUp leaves who gave up without the lock when it becomes free.
func TestAWaitIsGivenUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	holder, waiter := opened(t, path), opened(t, path)
	if err := Try(holder); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("no time")
	cancel(why)
	if err := Wait(ctx, waiter); !errors.Is(err, why) {
		t.Errorf("the wait gave %v", err)
	}
	waiter.Close()
	holder.Close()
	if err := Wait(t.Context(), opened(t, path)); err != nil {
		t.Errorf("the next: %v", err)
	}
}

// TestEachHasTheFileOfTheName lets many wait for a file that each renames: none
// of them gets one that was another's.
func TestEachHasTheFileOfTheName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "part")
	holder, err := WaitNamed(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	var begun, all sync.WaitGroup
	for i := range 8 {
		begun.Add(1)
		all.Go(func() {
			begun.Done()
			if err := writeAlone(t.Context(), path, fmt.Sprint(path, i)); err != nil {
				t.Errorf("number %d: %v", i, err)
			}
		})
	}
	begun.Wait()
	if err := os.Rename(path, path+"-first"); err != nil {
		t.Error(err)
	}
	if _, err := holder.WriteString("first"); err != nil {
		t.Error(err)
	}
	holder.Close()
	all.Wait()
}

func writeAlone(ctx context.Context, path, result string) error {
	file, err := WaitNamed(ctx, path)
	if err != nil {
		return err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || info.Size() > 0 {
		return fmt.Errorf("somebody else has written to it (%v)", err)
	}
	if _, err := file.WriteString(result); err != nil {
		return err
	}
	return os.Rename(path, result)
}
