package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain lets this test program be the keeper, as bangerd is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Argument {
		if err := Serve(); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func connect(t *testing.T, dir string) *Keeper {
	t.Helper()
	k, err := Connect(dir, os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeptPipeRemembersWhenEverybodyElseIsGone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	k := connect(t, dir)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Keep("one", f); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("last word"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	k.Close()

	// The next daemon finds the same keeper, and the word.
	k = connect(t, dir)
	defer k.Close()
	f, err = os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64)
	n, err := f.Read(buf)
	if err != nil || string(buf[:n]) != "last word" {
		t.Errorf("read %q, %v; want the last word", buf[:n], err)
	}
	if err := k.Drop("one"); err != nil {
		t.Error(err)
	}
}

func TestDropOfNothing(t *testing.T) {
	k := connect(t, t.TempDir())
	defer k.Close()
	if err := k.Drop("nobody"); err != nil {
		t.Error(err)
	}
}
