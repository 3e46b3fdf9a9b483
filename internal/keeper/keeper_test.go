package keeper

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/testenv"
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
	if err := k.Keep("one", path); err != nil {
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

func TestAKeeperThatDiedIsReplaced(t *testing.T) { testReplaced(t, kill) }

func TestAKeeperThatHangsIsReplaced(t *testing.T) {
	testReplaced(t, func(t *testing.T) {
		hanging := signal(t, unix.SIGSTOP)
		t.Cleanup(func() { // it wakes up to nobody, and ends
			for _, pid := range hanging {
				_ = unix.Kill(pid, unix.SIGCONT)
				if err := testenv.AwaitEnd(pid, 10*time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	})
}

// testReplaced has something befall the keeper.
func testReplaced(t *testing.T, befall func(t *testing.T)) {
	dir := t.TempDir()
	path := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	k := connect(t, dir)
	if err := k.Keep("one", path); err != nil {
		t.Fatal(err)
	}
	befall(t)
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Drop("another"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("last word"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	k.Close()

	k = connect(t, dir)
	defer k.Close()
	if f, err = os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	buf := make([]byte, 64)
	if n, err := f.Read(buf); err != nil || string(buf[:n]) != "last word" {
		t.Errorf("read %q, %v; want the last word", buf[:n], err)
	}
	if err := k.Drop("one"); err != nil {
		t.Error(err)
	}
}

// kill ends this program's keepers and waits for their end.
func kill(t *testing.T) {
	t.Helper()
	for _, pid := range signal(t, unix.SIGKILL) {
		if err := testenv.AwaitEnd(pid, 10*time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

// signal sends s to this program's keepers, and gives their numbers.
func signal(t *testing.T, s unix.Signal) []int {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var sent []int
	for _, list := range lists {
		children, _ := os.ReadFile(list) // the thread may have ended
		for _, child := range strings.Fields(string(children)) {
			pid, err := strconv.Atoi(child)
			if err != nil {
				t.Fatal(err)
			}
			if unix.Kill(pid, s) == nil { // else it has ended by itself
				sent = append(sent, pid)
			}
		}
	}
	return sent
}
