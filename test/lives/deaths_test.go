//go:build hosttest

package lives

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

func TestKilledVMMOfARunningVM(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	s.endProcess(v.VMM.PID)
	v = s.awaitState("one", is(api.StateFailed))
	if v.Reason != killedVMM {
		t.Errorf("the reason is %q, not %q", v.Reason, killedVMM)
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
	s.start()
	v := s.run("one")
	s.kill()
	s.start()
	s.endProcess(v.VMM.PID)
	v = s.awaitState("one", is(api.StateFailed))
	if want := "the VMM was killed or crashed, its status is not known"; v.Reason != want {
		t.Errorf("the reason is %q, not %q", v.Reason, want)
	}
	s.agrees()
	s.empty()
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

func TestSessionEndsWithItsClient(t *testing.T) {
	s := newStation(t)
	s.start()
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
	s.start()
	v := s.run("one")
	boot := s.exec("one", "boot")
	for _, end := range []func(){s.kill, s.stop} {
		end()
		s.start()
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

// What a guest does while no daemon lives is acted on by the next one. However it
// ended, it starts again, or has done so by itself.
func TestWhatAGuestDidMeanwhile(t *testing.T) {
	for _, end := range endings {
		t.Run(end.word, func(t *testing.T) {
			s := newStation(t)
			s.start()
			aRunningVM(s)
			v := s.vm("one")
			boot := s.exec("one", "boot")
			s.kill()
			s.tellGuest(v.ID, end.word)
			if end.word == "reboot" || end.word == "panic" {
				s.check(testenv.AwaitEnd(v.VMM.PID, patience))
			}
			s.start()
			v = s.awaitState("one", func(v api.VM) bool {
				return v.State == end.state && (v.VMM == nil || s.exec("one", "boot") != boot)
			})
			if v.Reason != end.reason {
				t.Errorf("the reason is %q, not %q", v.Reason, end.reason)
			}
			s.agrees()
			if end.state != api.StateRunning {
				s.banger("vm", "start", "one")
			}
			s.answers()
			s.agrees()
			s.empty()
		})
	}
}

// A daemon that ends between a guest's reboot and the start that follows leaves
// the start to the next one.
func TestDaemonEndsWhileAGuestRestarts(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	boot := s.exec("one", "boot")
	s.end("one", "reboot")
	s.awaitState("one", hasLost(v.VMM.PID))
	s.stop()
	s.start()
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
	s.start()
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
		s.start()
	}
	s.empty()
}

func TestStopAndStartRightAfterAPoweroff(t *testing.T) {
	s := newStation(t)
	s.start()
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

// A guest that goes down at once takes its answer along; one whose agent gives none
// and that stays up is killed, and that is said.
func TestStopWithoutAnAnswer(t *testing.T) {
	for manner, reason := range map[string]string{"abrupt": "", "dumb": "it was stopped by force: its guest's agent did not answer"} {
		t.Run(manner, func(t *testing.T) {
			s := newStation(t)
			s.start()
			s.run("one")
			s.exec("one", manner)
			v, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
			s.check(err)
			if v.State != api.StateStopped || v.Reason != reason {
				t.Errorf("it is %s: %s", v.State, v.Reason)
			}
			s.awaitLine("one", "cannot ask the guest to shut down: ", 1)
			s.agrees()
			s.empty()
		})
	}
}

// Without the keeper of consoles the end is unseen, and that is said.
func TestKilledKeeper(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	s.kill()
	s.killKeepers()
	s.tellGuest(v.ID, "reboot")
	s.check(testenv.AwaitEnd(v.VMM.PID, patience))
	s.start()
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
	s.start()
	s.run("one")
	s.killKeepers()
	s.run("two")
	_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	s.agrees()
	s.empty()
}

// killTimeout is what bangerd gives a process to end that it has killed, and what it
// takes at least where something waits in vain.
const killTimeout = 10 * time.Second

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
				s.start()
				v := s.run("one")
				s.check(testenv.Stop(v.VMM.PID, patience))
				if adopted {
					s.kill()
					s.start()
				}
				s.agrees()
				begun := time.Now()
				s.check(deed(s))
				if took := time.Since(begun); took > killTimeout {
					t.Errorf("it took %v", took)
				}
				s.agrees()
				s.empty()
			})
		}
	}
}

// A second daemon on a state directory says who works there, and how to get at
// that one also where its runtime directory is another.
func TestASecondDaemonSaysSoAndEnds(t *testing.T) {
	s := newStation(t)
	s.start()
	s.run("one")
	more := s.more
	for _, tt := range []struct{ runtime, stop string }{
		{s.runtime, "`banger daemon stop`"},
		{t.TempDir(), "`XDG_RUNTIME_DIR=" + s.runtime + " banger daemon stop`"},
	} {
		s.more = append(slices.Clip(more), "XDG_RUNTIME_DIR="+tt.runtime)
		second, said := s.launch()
		for _, want := range []string{"another bangerd works on", fmt.Sprintf("process %d,", s.daemon.cmd.Process.Pid), tt.stop} {
			if !strings.Contains(said, want) {
				t.Errorf("it does not say %q: %s", want, said)
			}
		}
		select {
		case <-second.done:
		case <-time.After(patience):
			t.Fatal("it did not end")
		}
	}
	s.more = more
	s.exec("one", "true")
	s.agrees()
	s.empty()
}

// Who wants something of a VM whose VMM hangs is told so, and its log ends.
func TestVMMThatHangs(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	s.check(testenv.Stop(v.VMM.PID, patience))
	logs := make(chan error, 1)
	go func() {
		logs <- s.client.Logs(s.ctx(), "one", false, func(api.LogLine) error { return nil })
	}()
	_, err := s.client.Exec(s.ctx(), "one", api.ExecRequest{Argv: []string{"true"}, Wait: api.WaitAgent})
	if err == nil || !strings.Contains(err.Error(), "its VMM has not answered") {
		t.Errorf("a command was told %v", err)
	}
	if err := <-logs; err != nil {
		t.Errorf("its log: %v", err)
	}
	s.check(syscall.Kill(v.VMM.PID, syscall.SIGCONT))
	s.exec("one", "true")
	s.empty()
}

// A VM that a new bangerd can't take up is ended by who stops it, and starts again.
func TestStopOfAVMThatIsLost(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	s.kill()
	console := filepath.Join(s.runDir(v.ID), "console")
	s.check(os.Remove(console))
	s.check(os.WriteFile(console, nil, 0o600))
	s.start()
	s.log.await(t, 0, "it is not a pipe")
	now, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	if now.State != api.StateStopped || !strings.Contains(now.Reason, "bangerd had lost it") {
		t.Errorf("it is %s: %s", now.State, now.Reason)
	}
	s.agrees()
	_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
	s.check(err)
	s.exec("one", "true")
	s.empty()
}
