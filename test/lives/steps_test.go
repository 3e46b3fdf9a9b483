//go:build hosttest

package lives

import (
	"errors"
	"slices"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/vm"
)

// A step is one of the lists of package vm. Its tests kill bangerd just before
// the step's deed, start another, and say the same again.

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

// walk does one life for each step: prepare with a healthy daemon, then do with
// one that dies at the step, then again with a healthy one, which starts by
// looking whether all agrees.
func walk(t *testing.T, steps []string, prepare func(*station), do func(*station) error, again func(*station)) {
	walkOn(newStation(t), t, steps, prepare, do, again)
}

// errAsked is for a deed that is no command and has no answer.
var errAsked = errors.New("asked for")

func walkOn(s *station, t *testing.T, steps []string, prepare func(*station), do func(*station) error, again func(*station)) {
	for _, step := range steps {
		s.T = t
		t.Run(step, func(t *testing.T) {
			s.T = t
			s.start("")
			prepare(s)
			s.agrees()
			s.stop()
			s.start(step)
			if err := do(s); err == nil {
				t.Errorf("the command went well")
			}
			s.killed(step)
			s.start("")
			again(s)
			s.agrees()
			s.empty()
		})
		s.T = t
		if t.Failed() {
			return
		}
	}
}

func nothingBefore(*station) {}

func aRunningVM(s *station) { s.Helper(); s.run("one") }

func TestKillAtEveryStepOfCreate(t *testing.T) {
	create := func(s *station) error {
		_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", NoStart: true}, nil)
		return err
	}
	walk(t, vm.CreateSteps, nothingBefore, create, func(s *station) {
		s.agrees()
		s.check(create(s))
	})
}

func TestKillAtEveryStepOfRun(t *testing.T) {
	run := func(s *station) error {
		_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one"}, nil)
		return err
	}
	walk(t, append(slices.Clone(vm.CreateSteps), vm.StartSteps...), nothingBefore, run, func(s *station) {
		s.agrees()
		s.check(run(s))
		s.exec("one", "true")
	})
}

func TestKillAtEveryStepOfASession(t *testing.T) {
	session := func(s *station) error {
		created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", Remove: true}, nil)
		if err == nil {
			s.Cleanup(created.Close)
		}
		return err
	}
	walk(t, append(slices.Clone(vm.CreateSteps), vm.StartSteps...), nothingBefore, session, func(s *station) {
		if left := s.agrees(); len(left) > 0 {
			s.Errorf("left of the session: %v", left)
		}
		s.check(session(s))
		s.exec("one", "true")
	})
}

func TestKillAtEveryStepOfStart(t *testing.T) {
	start := func(s *station) error {
		_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
		return err
	}
	stopped := func(s *station) {
		s.run("one")
		_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
		s.check(err)
	}
	walk(t, vm.StartSteps, stopped, start, func(s *station) {
		s.agrees()
		s.check(start(s))
		s.exec("one", "true")
	})
}

func TestKillAtEveryStepOfStop(t *testing.T) {
	gentle, last := vm.StopSteps[:len(vm.StopSteps)-1], vm.StopSteps[len(vm.StopSteps)-1:]
	t.Run("gentle", func(t *testing.T) { walkStop(t, gentle, api.StopRequest{}) })
	t.Run("forced", func(t *testing.T) { walkStop(t, last, api.StopRequest{Force: true}) })
}

func walkStop(t *testing.T, steps []string, request api.StopRequest) {
	stop := func(s *station) error {
		_, err := s.client.StopVM(s.ctx(), "one", request, nil)
		return err
	}
	walk(t, steps, aRunningVM, stop, func(s *station) {
		s.agrees()
		s.check(stop(s))
		if v := s.vm("one"); v.State != api.StateStopped {
			s.Errorf("it is %s: %s", v.State, v.Reason)
		}
	})
}

// A stop that ends well goes through the steps of an end as well.
func TestKillAtEveryStepOfTheEndOfAStop(t *testing.T) { walkStop(t, vm.EndSteps, api.StopRequest{}) }

// endings are what a guest does of its own and what becomes of its VM.
var endings = []struct {
	word, reason string
	state        api.State
}{
	{"poweroff", "the guest powered off", api.StateStopped},
	{"halt", "the guest halted", api.StateStopped},
	{"panic", "the guest's kernel panicked: Kernel panic - not syncing: it was asked to", api.StateFailed},
	{"reboot", "", api.StateRunning},
}

func TestKillAtEveryStepOfAnEnd(t *testing.T) {
	for _, end := range endings {
		t.Run(end.word, func(t *testing.T) {
			var boot string
			prepare := func(s *station) {
				s.run("one")
				boot = s.exec("one", "boot")
			}
			do := func(s *station) error {
				s.end("one", end.word)
				return errAsked
			}
			walk(t, vm.EndSteps, prepare, do, func(s *station) {
				if end.state != api.StateRunning { // else it is just starting
					s.agrees()
				}
				v := s.awaitState("one", is(end.state))
				if v.Reason != end.reason {
					s.Errorf("the reason is %q, not %q", v.Reason, end.reason)
				}
				if end.state == api.StateRunning && s.exec("one", "boot") == boot {
					s.Error("it is the same boot")
				}
			})
		})
	}
}

// The start that a guest's reboot asks for is nobody's command: the next daemon
// must think of it. The steps are those of every start; before each boot there is
// a pause.
func TestKillDuringAReboot(t *testing.T) {
	steps := []string{"start.record", "start.spawn", "start.commit"}
	var boot string
	prepare := func(s *station) {
		s.run("one")
		boot = s.exec("one", "boot")
	}
	reboot := func(s *station) error {
		s.end("one", "reboot")
		return errAsked
	}
	walk(t, steps, prepare, reboot, func(s *station) {
		s.awaitState("one", is(api.StateRunning))
		if s.exec("one", "boot") == boot {
			s.Error("it is the same boot")
		}
	})
}

func TestKillAtEveryStepOfDelete(t *testing.T) {
	remove := func(s *station) error { return s.client.DeleteVM(s.ctx(), "one", nil) }
	walk(t, vm.DeleteSteps, aRunningVM, remove, func(s *station) {
		s.agrees()
		s.check(remove(s))
		if left := s.agrees(); len(left) > 0 {
			s.Errorf("left: %v", left)
		}
	})
}

// A delete of what is deleted is no error, by name or by id, after the other or
// beside it; of what never was it is one.
func TestDeleteAgain(t *testing.T) {
	s := newStation(t)
	s.start("")
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
