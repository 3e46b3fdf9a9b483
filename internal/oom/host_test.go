//go:build hosttest

package oom

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/internal/testenv"
)

func TestMain(m *testing.M) {
	if err := testenv.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hungry starts a process of another user in a cgroup of its own that lets it
// have little memory; it takes more as soon as eat is called.
func hungry(t *testing.T, uid uint32) (cmd *exec.Cmd, eat func() error) {
	t.Helper()
	limit, err := testenv.LimitMemory(fmt.Sprintf("%s-%d", t.Name(), os.Getpid()), 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command("/bin/sh", "-c", "read go; ulimit -v 600000; exec tail /dev/zero")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if err := limit.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := limit.Add(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	return cmd, func() error {
		if _, err := fmt.Fprintln(in, "go"); err != nil {
			t.Fatal(err)
		}
		return cmd.Wait()
	}
}

func TestCauseOfARealKill(t *testing.T) {
	const uid = 720900
	cmd, eat := hungry(t, uid)
	mark := MarkOf(cmd.Process.Pid)
	if !strings.Contains(mark.Group, t.Name()) {
		t.Errorf("the mark is of another cgroup: %+v", mark)
	}
	if said := mark.Cause(cmd.Process.Pid, uid); said != "" {
		t.Errorf("before the kill: %q", said)
	}
	if err := eat(); err == nil || err.Error() != "signal: killed" {
		t.Fatalf("it was not killed: %v", err)
	}
	for name, who := range map[string][2]int{"by its pid": {cmd.Process.Pid, -2}, "by its user": {-2, uid}} {
		said := mark.Cause(who[0], who[1])
		if !strings.HasPrefix(said, "its cgroup's memory limit was reached, and the kernel killed the VMM (process ") {
			t.Errorf("%s: %q", name, said)
		}
	}
	if said := mark.Cause(os.Getpid(), 12345); said != "" {
		t.Errorf("of another process: %q", said)
	}
	if kills, err := counter(mark.Group); err != nil || kills != mark.Kills+1 {
		t.Errorf("the cgroup counts %d kills (%v)", kills, err)
	}
	if said := MarkOf(os.Getpid()).Cause(cmd.Process.Pid, uid); said != "" {
		t.Errorf("of a later mark: %q", said)
	}
}

// Where the kernel's log can't be read, the counter of the cgroup is all there
// is.
func TestCauseWithoutTheKernelsLog(t *testing.T) {
	show, err := testenv.Hide("/dev/kmsg", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer show()
	cmd, eat := hungry(t, 720901)
	mark := MarkOf(cmd.Process.Pid)
	other := MarkOf(os.Getpid())
	_ = eat()
	if said := mark.Cause(cmd.Process.Pid, 720901); !strings.HasPrefix(said, "the VMM was killed, probably by the kernel") {
		t.Errorf("it said %q", said)
	}
	if said := other.Cause(os.Getpid(), 12345); said != "" {
		t.Errorf("of a process in another cgroup: %q", said)
	}
}
