//go:build hosttest

package lives

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// killVMM ends a VMM from outside.
func (s *station) killVMM(id string) {
	s.Helper()
	for _, pid := range vmms(filepath.Join(s.runtime, "banger/vm", id)) {
		var n int
		fmt.Sscan(pid, &n)
		s.check(syscall.Kill(n, syscall.SIGKILL))
		s.check(testenv.AwaitEnd(n, patience))
	}
}

func TestKilledVMMOfARunningVM(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.killVMM(v.ID)
	v = s.awaitState("one", is(api.StateFailed))
	if want := "the VMM was killed by signal 9"; v.Reason != want {
		t.Errorf("the reason is %q, not %q", v.Reason, want)
	}
	s.agrees()
	_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
	s.check(err)
	s.exec("one", "true")
	s.agrees()
	s.empty()
}

func TestKilledVMMOfAnAdoptedVM(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.kill()
	s.start("")
	s.killVMM(v.ID)
	s.awaitState("one", is(api.StateFailed))
	s.agrees()
	s.empty()
}

// atStep runs a command and calls deed when it reports a step. The step's own
// deed goes on meanwhile.
func atStep(step string, deed func()) func(api.StepEvent) {
	done := false
	return func(e api.StepEvent) {
		if e.Name == step && !done {
			done = true
			deed()
		}
	}
}

// A VMM that is killed while its VM starts, at a step where there is one.
func TestKilledVMMDuringAStart(t *testing.T) {
	for _, step := range []string{"start.identity", "start.configure", "start.boot", "start.agent"} {
		t.Run(step, func(t *testing.T) {
			s := newStation(t)
			s.start("")
			_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", NoStart: true}, nil)
			s.check(err)
			v := s.vm("one")
			_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{}, atStep(step, func() { s.killVMM(v.ID) }))
			v = s.vm("one")
			if err == nil { // the start was quicker than the kill
				v = s.awaitState("one", is(api.StateFailed))
			} else if v.State != api.StateCreated {
				t.Errorf("after a failed first start (%v) it is %s: %s", err, v.State, v.Reason)
			}
			s.agrees()
			_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
			s.check(err)
			s.agrees()
			s.empty()
		})
	}
}

func TestKilledVMMDuringAStop(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.exec("one", "deaf")
	v, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, atStep("stop.shutdown", func() { s.killVMM(v.ID) }))
	s.check(err)
	if v.State != api.StateStopped {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	s.agrees()
	s.empty()
}

func TestKilledVMMDuringADelete(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.check(s.client.DeleteVM(s.ctx(), "one", atStep("delete.record", func() { s.killVMM(v.ID) })))
	s.agrees()
	s.empty()
}

// A client that is killed closes its connection, and so does one whose context
// ends. What it had begun is taken back.
func TestKilledClient(t *testing.T) {
	steps := []string{"create.image", "create.disk", "create.commit", "start.network", "start.spawn", "start.configure", "start.agent"}
	for _, remove := range []bool{false, true} {
		for _, step := range steps {
			t.Run(fmt.Sprintf("%s remove=%v", step, remove), func(t *testing.T) {
				s := newStation(t)
				s.start("")
				ctx, cancel := context.WithCancel(s.ctx())
				created, err := s.client.Create(ctx, api.CreateRequest{Name: "one", Remove: remove}, atStep(step, cancel))
				if err == nil {
					created.Close()
				}
				s.settled("one")
				s.agrees()
				s.run("two")
				s.agrees()
				s.empty()
			})
		}
	}
}

// settled returns when nothing is under way with a VM: its log ends when it is
// deleted, and another client's start waits for the VM's turn.
func (s *station) settled(name string) {
	s.Helper()
	var e *api.Error
	err := s.client.Logs(s.ctx(), name, true, func(api.LogLine) error {
		if v, err := s.client.VM(s.ctx(), name); err == nil && v.State == api.StateRunning && !v.Remove {
			return errors.New("it runs")
		}
		return nil
	})
	if err != nil && !errors.As(err, &e) && err.Error() != "it runs" {
		s.Fatal(err)
	}
}

func TestKilledClientOfAStart(t *testing.T) {
	for _, step := range []string{"start.kernel", "start.network", "start.spawn", "start.configure", "start.agent"} {
		t.Run(step, func(t *testing.T) {
			s := newStation(t)
			s.start("")
			s.run("one")
			_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
			s.check(err)
			ctx, cancel := context.WithCancel(s.ctx())
			_, _ = s.client.StartVM(ctx, "one", api.StartRequest{}, atStep(step, cancel))
			s.awaitState("one", func(v api.VM) bool { return v.State == api.StateRunning || v.State == api.StateStopped })
			_, err = s.client.RestartVM(s.ctx(), "one", api.StartRequest{}, nil)
			s.check(err)
			s.agrees()
			s.empty()
		})
	}
}

func TestSessionEndsWithItsClient(t *testing.T) {
	s := newStation(t)
	s.start("")
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", Remove: true}, nil)
	s.check(err)
	s.agrees()
	created.Close()
	s.settled("one")
	if left := s.agrees(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.empty()
}

func TestAVMSurvivesItsDaemon(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	boot := s.exec("one", "boot")
	for _, end := range []func(){s.kill, s.stop} {
		end()
		s.start("")
		if now := s.exec("one", "boot"); now != boot {
			t.Error("it is another boot")
		}
		if now := s.vm("one"); now.VMM.PID != v.VMM.PID {
			t.Error("it is another VMM")
		}
		s.agrees()
	}
	s.empty()
}

// What a guest does while no daemon lives is acted on by the next one.
func TestWhatAGuestDidMeanwhile(t *testing.T) {
	for _, end := range endings {
		t.Run(end.word, func(t *testing.T) {
			s := newStation(t)
			s.start("")
			v := s.run("one")
			boot := s.exec("one", "boot")
			s.kill()
			s.tellGuest(v.ID, end.word)
			if end.word == "reboot" || end.word == "panic" {
				s.check(testenv.AwaitEnd(v.VMM.PID, patience))
			}
			s.start("")
			v = s.awaitState("one", func(v api.VM) bool {
				return v.State == end.state && (v.VMM == nil || s.exec("one", "boot") != boot)
			})
			if v.Reason != end.reason {
				t.Errorf("the reason is %q, not %q", v.Reason, end.reason)
			}
			s.agrees()
			s.empty()
		})
	}
}

// A daemon that ends between a guest's reboot and the start that follows leaves
// the start to the next one.
func TestDaemonEndsWhileAGuestRestarts(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	boot := s.exec("one", "boot")
	s.end("one", "reboot")
	s.awaitState("one", hasLost(v.VMM.PID))
	s.stop()
	s.start("")
	s.awaitState("one", is(api.StateRunning))
	if s.exec("one", "boot") == boot {
		t.Error("it is the same boot")
	}
	s.agrees()
	s.empty()
}

// hasLost is true of a VM whose VMM was this process and is no more.
func hasLost(pid int) func(api.VM) bool {
	return func(v api.VM) bool { return v.VMM == nil || v.VMM.PID != pid }
}

func TestStopWhileAGuestRestarts(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.end("one", "reboot")
	s.awaitState("one", hasLost(v.VMM.PID))
	_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	for _, end := range []func(){s.kill, s.stop} {
		s.agrees()
		if v := s.vm("one"); v.State != api.StateStopped {
			t.Errorf("it is %s: %s", v.State, v.Reason)
		}
		end()
		s.start("")
	}
	s.empty()
}

func TestStopAndStartRightAfterAPoweroff(t *testing.T) {
	s := newStation(t)
	s.start("")
	s.run("one")
	s.end("one", "poweroff")
	v, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	if v.State != api.StateStopped {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
	s.check(err)
	s.exec("one", "true")
	s.agrees()
	s.empty()
}

// Without the keeper of consoles the end is unseen, and that is said.
func TestKilledKeeper(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	s.kill()
	for _, pid := range s.processes() {
		if pid != v.VMM.PID {
			s.check(syscall.Kill(pid, syscall.SIGKILL))
			s.check(testenv.AwaitEnd(pid, patience))
		}
	}
	s.tellGuest(v.ID, "reboot")
	s.check(testenv.AwaitEnd(v.VMM.PID, patience))
	s.start("")
	v = s.vm("one")
	if v.State != api.StateFailed || v.Reason != "it ended unseen" {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	s.agrees()
	s.empty()
}

// A keeper that dies beside a living daemon is replaced.
func TestKilledKeeperBesideTheDaemon(t *testing.T) {
	s := newStation(t)
	s.start("")
	v := s.run("one")
	for _, pid := range s.processes() {
		if pid != v.VMM.PID && pid != s.daemon.cmd.Process.Pid {
			s.check(syscall.Kill(pid, syscall.SIGKILL))
			s.check(testenv.AwaitEnd(pid, patience))
		}
	}
	s.run("two")
	_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	s.agrees()
	s.empty()
}

// A VMM that is stopped answers nothing, and bangerd does all the same.
func TestStoppedVMM(t *testing.T) {
	for name, deed := range map[string]func(s *station) error{
		"stop": func(s *station) error {
			_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{Timeout: time.Second}, nil)
			return err
		},
		"force": func(s *station) error {
			_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{Force: true}, nil)
			return err
		},
		"delete": func(s *station) error { return s.client.DeleteVM(s.ctx(), "one", nil) },
	} {
		for _, adopted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s adopted=%v", name, adopted), func(t *testing.T) {
				s := newStation(t)
				s.start("")
				v := s.run("one")
				s.check(syscall.Kill(v.VMM.PID, syscall.SIGSTOP))
				if adopted {
					s.kill()
					s.start("")
				}
				s.agrees()
				begun := time.Now()
				s.check(deed(s))
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				s.agrees()
				s.empty()
			})
		}
	}
}

func TestASecondDaemonSaysSoAndEnds(t *testing.T) {
	s := newStation(t)
	s.start("")
	s.run("one")
	second, said := s.launch("")
	if !strings.Contains(said, "another bangerd works on") {
		t.Errorf("it said %q", said)
	}
	select {
	case <-second.done:
	case <-time.After(patience):
		t.Fatal("it did not end")
	}
	s.exec("one", "true")
	s.agrees()
	s.empty()
}
