package proc

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

func held(t *testing.T, pid int) *Process {
	t.Helper()
	id, err := Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestAProcessThatEndsIsSeen(t *testing.T) {
	cmd := sleeper(t)
	p := held(t, cmd.Process.Pid)
	if p.Ended() {
		t.Error("it has ended before it did")
	}
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("its end is not seen")
	}
	// It is a zombie now: it has ended, and its identity is still its own.
	if !p.Ended() {
		t.Error("it has not ended")
	}
	if id, err := Of(cmd.Process.Pid); err != nil || id != p.Identity() {
		t.Errorf("a zombie's identity is %v (%v)", id, err)
	}
	cmd.Wait()
	if _, err := Open(p.Identity()); !errors.Is(err, ErrGone) {
		t.Errorf("opening it again: %v", err)
	}
	if err := p.Signal(unix.SIGKILL); !errors.Is(err, ErrGone) {
		t.Errorf("a signal to it: %v", err)
	}
	if _, err := Of(cmd.Process.Pid); !errors.Is(err, ErrGone) {
		t.Errorf("its identity: %v", err)
	}
}

func TestAnIdentityIsNotANumber(t *testing.T) {
	id, err := Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]Identity{
		"started at another time": {id.PID, id.StartTime + 1, id.BootID},
		"of another boot":         {id.PID, id.StartTime, "another"},
		"of no number":            {0, id.StartTime, id.BootID},
		"of a negative number":    {-1, id.StartTime, id.BootID},
	} {
		if _, err := Open(other); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStatLines(t *testing.T) {
	const rest = " S 1 99 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20"
	for line, start := range map[string]uint64{
		"12 (sleep)" + rest:      777,
		"12 (a) (b) c)" + rest:   777,
		"12 ()" + rest:           777,
		"12 (a\nb S 1 2)" + rest: 777,
	} {
		if got, err := parseStat([]byte(line)); err != nil || got != (stat{99, start}) {
			t.Errorf("%q: %v, %v", line, got, err)
		}
	}
	for _, line := range []string{"", "12 (sleep", "12 (sleep) S 1 2", "12 (x) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20"} {
		if got, err := parseStat([]byte(line)); err == nil {
			t.Errorf("%q: %v", line, got)
		}
	}
}

func TestAGroupIsAllOfIt(t *testing.T) {
	leader := exec.Command("sleep", "1000")
	leader.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := leader.Start(); err != nil {
		t.Fatal(err)
	}
	other := exec.Command("sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: leader.Process.Pid}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer leader.Wait()
	defer other.Wait()
	defer unix.Kill(-leader.Process.Pid, unix.SIGKILL)
	members, err := Group(leader.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	pids := map[int]bool{}
	for _, m := range members {
		pids[m.Identity().PID] = true
		m.Close()
	}
	if len(pids) != 2 || !pids[leader.Process.Pid] || !pids[other.Process.Pid] {
		t.Errorf("the group of %d and %d is %v", leader.Process.Pid, other.Process.Pid, pids)
	}
}
