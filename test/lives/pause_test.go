//go:build hosttest

package lives

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/vm"
)

// diskOfItsOwn gives the station's VMs a filesystem of their own, with a ballast
// that makes it nearly full as soon as it shrinks.
func (s *station) diskOfItsOwn() {
	s.Helper()
	dir := filepath.Join(s.dir, "state")
	s.check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"))
	s.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			s.Error(err)
		}
	})
	s.check(os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 20<<20), 0o600))
}

// newFillableStation makes a station whose VM "one" runs on such a disk.
func newFillableStation(t *testing.T) *station {
	t.Helper()
	s := newStation(t)
	s.diskOfItsOwn()
	s.start()
	aRunningVM(s)
	return s
}

// fill leaves a MiB of the filesystem free, and room gives it back.
func (s *station) fill() {
	s.Helper()
	s.leave(1 << 20)
}

func (s *station) room() {
	s.Helper()
	s.check(unix.Mount("", filepath.Join(s.dir, "state"), "", unix.MS_REMOUNT, "size=1g"))
}

// bangerd dies at each step of the pause that a full disk asks for: the next one
// pauses the VM all the same, and lets it run on when there is room.
func TestKillAtEveryStepOfAPause(t *testing.T) {
	walkPause(t, vm.PauseSteps, nothingBefore, (*station).fill, func(s *station) {
		s.awaitState("one", is(api.StatePaused))
		s.awaitHalted("one")
		s.agrees()
		s.room()
	})
}

// awaitHalted asks a VM's VMM itself whether it is paused.
func (s *station) awaitHalted(name string) {
	s.Helper()
	s.awaitVMM(name, firecracker.StatePaused)
}

func (s *station) awaitUnhalted(name string) {
	s.Helper()
	s.awaitVMM(name, firecracker.StateRunning)
}

func (s *station) awaitVMM(name string, state firecracker.InstanceState) {
	s.Helper()
	vmm := firecracker.NewClient(filepath.Join(s.runDir(s.vm(name).ID), "api.sock"))
	defer vmm.Close()
	for late := time.Now().Add(patience); ; {
		info, err := vmm.Describe(s.ctx())
		s.check(err)
		if info.State == state {
			return
		}
		if time.Now().After(late) {
			s.Fatalf("the VMM is %s", info.State)
		}
	}
}

// It dies at each step of the resume: the VM is never left paused.
func TestKillAtEveryStepOfAResume(t *testing.T) {
	paused := func(s *station) {
		s.fill()
		s.awaitState("one", is(api.StatePaused))
	}
	walkPause(t, vm.ResumeSteps, paused, (*station).room, func(*station) {})
}

// Who wants into a paused VM is told why it is and what helps, by vm ssh as by
// bangerd, and not by ssh.
func TestSSHIntoAPausedVM(t *testing.T) {
	s := newFillableStation(t)
	s.fill()
	s.awaitState("one", is(api.StatePaused))
	_, err := s.client.Exec(s.ctx(), "one", api.ExecRequest{Argv: []string{"kept"}, Wait: api.WaitAgent})
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindWrongState {
		t.Fatalf("a command in a paused VM: %v", err)
	}
	s.tell("vm", "ssh", "one")
	var exit *exec.ExitError
	if err := s.outcome(); !errors.As(err, &exit) || exit.ExitCode() != 125 {
		t.Errorf("vm ssh: %v", err)
	}
	if got, want := s.said.said.String(), "banger: "+told.Message+"\n  hint: "+told.Hint+"\n"; got != want {
		t.Errorf("vm ssh says %q, and bangerd %q", got, want)
	}
	s.room()
	s.awaitState("one", is(api.StateRunning))
	s.empty()
}

// A command of a paused VM can't take a signal: who sends one is told, and free.
func TestSignalToACommandOfAPausedVM(t *testing.T) {
	s := newFillableStation(t)
	var words bytes.Buffer
	cmd := exec.CommandContext(s.ctx(), filepath.Join(programs, "bin/banger"), "vm", "exec", "--wait", "agent", "one", "--", "wait")
	cmd.Env, cmd.Dir, cmd.Stderr = s.env(), s.dir, &words
	out, err := cmd.StdoutPipe()
	s.check(err)
	s.check(cmd.Start())
	_, err = bufio.NewReader(out).ReadString('\n')
	s.check(err)
	s.fill()
	s.awaitState("one", is(api.StatePaused))
	s.check(cmd.Process.Signal(unix.SIGTERM))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 || !strings.Contains(words.String(), "one is paused (the host's disk is almost full") {
		t.Errorf("vm exec: %v: %s", err, words.String())
	}
	s.room()
	s.awaitState("one", is(api.StateRunning))
	s.empty()
}

// walkPause walks with a VM that in the end must run on, the same boot, and
// answer.
func walkPause(t *testing.T, steps []string, before, begin, then func(*station)) {
	var boot string
	s := newStation(t)
	s.diskOfItsOwn()
	operation{
		steps: steps,
		before: func(s *station) {
			aRunningVM(s)
			boot = s.exec("one", "boot")
			before(s)
		},
		begin: begin,
		then: func(s *station) {
			then(s)
			s.awaitState("one", is(api.StateRunning))
			if now := s.exec("one", "boot"); now != boot {
				s.Error("it is another boot")
			}
			s.answers()
		},
	}.walkOn(s, daemonDies)
}
