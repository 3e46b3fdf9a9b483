//go:build hosttest

package lives

import (
	"errors"
	"slices"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/vm"
)

// The lists of package vm have every step. Somebody is killed just before each
// step's deed, and then the same is said again.

func TestEveryStepHasOneName(t *testing.T) {
	var all []string
	for _, list := range [][]string{vm.CreateSteps, vm.StartSteps, vm.StopSteps, vm.EndSteps, vm.DeleteSteps, vm.PauseSteps, vm.ResumeSteps} {
		all = append(all, list...)
	}
	slices.Sort(all)
	if distinct := slices.Compact(slices.Clone(all)); len(distinct) != len(all) {
		t.Errorf("a name stands for two steps: %q", all)
	}
}

// anyVictim is for the operations that a VMM outlives or begins in.
var anyVictim = []victim{daemonDies, clientDies, vmmDies, keeperDies}

func nothingBefore(*station) {}

// aRunningVM has something on its disk that its guest fsynced.
func aRunningVM(s *station) {
	s.Helper()
	s.run("one")
	s.exec("one", "keep", kept)
}

func aStoppedVM(s *station) {
	s.Helper()
	aRunningVM(s)
	s.banger("vm", "stop", "one")
}

const kept = "what was fsynced"

// answers looks whether a VM's guest does, and has what was fsynced.
func (s *station) answers() {
	s.Helper()
	if found := s.exec("one", "kept"); found != kept {
		s.Errorf("the disk has %q", found)
	}
}

func nothingLeft(s *station) {
	s.Helper()
	if left := s.agrees(); len(left) > 0 {
		s.Errorf("left: %v", left)
	}
}

func TestKillAtEveryStepOfCreate(t *testing.T) {
	operation{
		steps: vm.CreateSteps, before: nothingBefore,
		begin: told("vm", "create", "--name", "one", "--no-start"),
		then:  func(s *station) { s.vm("one") },
	}.walk(t, daemonDies, clientDies, keeperDies) // no VMM takes part
}

func TestKillAtEveryStepOfRun(t *testing.T) {
	operation{
		steps: slices.Concat(vm.CreateSteps, vm.StartSteps), before: nothingBefore,
		begin: told("vm", "run", "--name", "one", "--", "true"),
		then:  func(s *station) { s.exec("one", "true") },
	}.walk(t, anyVictim...)
}

func TestKillAtEveryStepOfASession(t *testing.T) {
	operation{
		steps: slices.Concat(vm.CreateSteps, vm.StartSteps), before: nothingBefore,
		begin: told("vm", "run", "--rm", "--name", "one", "--", "true"),
		then:  nothingLeft,
	}.walk(t, anyVictim...)
}

func TestKillAtEveryStepOfStart(t *testing.T) {
	operation{
		steps: vm.StartSteps, before: aStoppedVM,
		begin: told("vm", "start", "one"),
		then:  (*station).answers,
	}.walk(t, anyVictim...)
}

// A stop whose guest obeys never comes to its last step, and goes through those of
// an end.
func TestKillAtEveryStepOfStop(t *testing.T) {
	last := len(vm.StopSteps) - 1
	t.Run("gentle", func(t *testing.T) {
		stop(slices.Concat(vm.StopSteps[:last], vm.EndSteps), told("vm", "stop", "one")).walk(t, anyVictim...)
	})
	t.Run("forced", func(t *testing.T) {
		stop(vm.StopSteps[last:], told("vm", "stop", "--force", "one")).walk(t, anyVictim...)
	})
}

func stop(steps []string, begin func(*station)) operation {
	return operation{steps: steps, before: aRunningVM, begin: begin, then: func(s *station) {
		if v := s.vm("one"); v.State != api.StateStopped && v.Reason != killedVMM {
			s.Errorf("it is %s: %s", v.State, v.Reason)
		}
		s.banger("vm", "start", "one")
		s.answers()
	}}
}

// killedVMM is what becomes known of a VMM that dies before the stop is asked for.
const killedVMM = "the VMM was killed by signal 9"

// endings are what a guest does of its own and what becomes of its VM.
var endings = []struct {
	word, reason string
	state        api.State
}{
	{"poweroff", "the guest powered off", api.StateStopped},
	{"halt", "the guest halted", api.StateStopped},
	{"panic", "the guest's kernel panicked: it was asked to", api.StateFailed},
	{"reboot", "", api.StateRunning},
}

// However it ended, it starts again, or has done so by itself.
func TestKillAtEveryStepOfAnEnd(t *testing.T) {
	for _, end := range endings {
		t.Run(end.word, func(t *testing.T) {
			var boot string
			var before int // the VMM
			operation{
				steps: vm.EndSteps,
				before: func(s *station) {
					aRunningVM(s)
					boot, before = s.exec("one", "boot"), s.vm("one").VMM.PID
				},
				begin: func(s *station) { s.end("one", end.word) },
				then: func(s *station) {
					v := s.awaitState("one", func(v api.VM) bool { return v.State == end.state && hasLost(before)(v) })
					if v.Reason != end.reason {
						s.Errorf("the reason is %q, not %q", v.Reason, end.reason)
					}
					if end.state != api.StateRunning {
						s.banger("vm", "start", "one")
					}
					if s.exec("one", "boot") == boot {
						s.Error("it is the same boot")
					}
					s.answers()
				},
			}.walk(t, daemonDies, keeperDies) // the VMM is gone
		})
	}
}

// The start that a guest's reboot asks for is nobody's command: the next daemon
// must think of it. The steps are those of every start; before each boot there is
// a pause.
func TestKillDuringAReboot(t *testing.T) {
	reboot := operation{
		before: aRunningVM,
		begin:  func(s *station) { s.end("one", "reboot") },
	}
	t.Run("goes on", func(t *testing.T) {
		reboot.steps = []string{"start.record", "start.spawn", "start.commit"}
		reboot.then = func(s *station) {
			s.awaitState("one", is(api.StateRunning))
			s.answers()
		}
		reboot.walk(t, daemonDies)
	})
	t.Run("has failed", func(t *testing.T) {
		reboot.steps = []string{"start.identity", "start.commit"}
		reboot.then = func(s *station) {
			s.awaitState("one", is(api.StateFailed))
			s.banger("vm", "start", "one")
			s.answers()
		}
		reboot.walk(t, vmmDies)
	})
}

func TestKillAtEveryStepOfDelete(t *testing.T) {
	operation{
		steps: vm.DeleteSteps, before: aRunningVM,
		begin: told("vm", "delete", "one"),
		then:  nothingLeft,
	}.walk(t, anyVictim...)
}

// A delete of what is deleted is no error, by name or by id, after the other or
// beside it; of what never was it is one.
func TestDeleteAgain(t *testing.T) {
	s := newStation(t)
	s.start()
	v := s.run("one")
	results := make(chan error, 5)
	for range cap(results) {
		go func() { results <- s.client.DeleteVM(s.ctx(), "one", nil) }()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	s.check(s.client.DeleteVM(s.ctx(), v.ID, nil))
	s.check(s.client.DeleteVM(s.ctx(), "one", nil))
	var e *api.Error
	if err := s.client.DeleteVM(s.ctx(), "two", nil); !errors.As(err, &e) || e.Kind != api.KindNotFound {
		t.Errorf("of a VM that never was: %v", err)
	}
	next := s.run("one")
	s.check(s.client.DeleteVM(s.ctx(), v.ID, nil))
	if s.vm("one").ID != next.ID {
		t.Error("the VM that has the name now is another")
	}
	s.agrees()
	s.empty()
}
