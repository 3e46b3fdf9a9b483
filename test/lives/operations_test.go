//go:build hosttest

package lives

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
	"github.com/banger-vm/banger/internal/vm"
)

// How far an operation is can be seen of the VM that it changes, to the operation's
// end.
func TestAnOperationIsSeen(t *testing.T) {
	s := newStation(t)
	s.start()
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", NoStart: true}, nil)
	s.check(err)
	over := func(v api.VM) {
		if v.Step != "" {
			t.Errorf("nothing goes on, and a VM that is %s is at the step %q", v.State, v.Step)
		}
	}
	over(created.VM)
	halted, err := testenv.CloseGate(s.halts, "start.boot")
	s.check(err)
	told("vm", "start", "one")(s)
	s.check(halted.Await(patience))
	if v := s.vm("one"); v.State != api.StateStarting || v.Step != "start.boot" {
		t.Errorf("a VM that boots is %s, at the step %q", v.State, v.Step)
	}
	halted.Open()
	s.check(s.outcome())
	over(s.vm("one"))
	stopped, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	over(stopped)
	s.empty()
}

// Who wants to reach a VM that is still being made is told that, and how to wait
// for it.
func TestReachingWhatIsBeingMade(t *testing.T) {
	for _, tt := range []struct{ step, is string }{
		{"create.disk", "it is still being made"},
		{"start.record", "it is still being made"},
		{"start.boot", "it is starting"},
	} {
		t.Run(tt.step, func(t *testing.T) {
			s := newStation(t)
			s.start()
			halted, err := testenv.CloseGate(s.halts, tt.step)
			s.check(err)
			s.tell("vm", "create", "--name", "one")
			making := s.said
			s.check(halted.Await(patience))
			for _, words := range [][]string{{"vm", "exec", "one", "--", "true"}, {"vm", "ssh", "one", "--", "true"}} {
				s.tell(words...)
				err := s.outcome()
				for _, want := range []string{"cannot reach VM one: " + tt.is, "banger vm start one waits until it runs"} {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("it does not say %q: %v", want, err)
					}
				}
			}
			s.tell("vm", "start", "one")
			halted.Open()
			s.check(s.outcome())
			s.exec("one", "true")
			s.said = making
			s.check(s.outcome())
			s.agrees()
			s.empty()
		})
	}
}

// The id of a start is in its events, in what is shown of the VM, and in the
// daemon's log, with the steps, in the order of the lists, and the time of each; also
// of a start that a guest's reboot asked for.
func TestAStartCanBeFollowed(t *testing.T) {
	s := newStation(t)
	s.start()
	id := ""
	var told []string
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one"}, func(e api.StepEvent) {
		id, told = e.Operation, append(told, e.Name)
	})
	s.check(err)
	v := s.vm("one")
	if id == "" || v.StartedBy != id || created.VM.StartedBy != id {
		t.Errorf("operation %q started a VM that says %q", id, v.StartedBy)
	}
	var steps []string
	for _, step := range v.Starts {
		steps = append(steps, step.Name)
	}
	last := len(vm.StartSteps) - 1 // writes the others down
	if want := slices.Concat([]string{"start.queue"}, vm.StartSteps[:last], []string{"start.stage"}); !slices.Equal(steps, want) {
		t.Errorf("the steps of the last start are %q", steps)
	}
	told = slices.DeleteFunc(slices.Compact(told), func(name string) bool { return name == "queue" })
	if want := slices.Concat(vm.CreateSteps, vm.StartSteps, []string{"start.stage"}); !slices.Equal(told, want) {
		t.Errorf("the steps that were told of are %q", told)
	}
	s.log.await(t, 0, `msg="vm create" op=`+id+` name=one`)
	s.log.await(t, 0, `msg=done op=`+id+` took=.*create\.disk=.*start\.boot=`)
	s.end("one", "reboot")
	v = s.awaitState("one", func(v api.VM) bool { return v.State == api.StateRunning && v.StartedBy != id })
	s.log.await(t, 0, `op=`+v.StartedBy+` vm=one why="its guest restarts"`)
	s.agrees()
	s.empty()
}

// Who starts a VM that runs, or that somebody else is about to start, gets one that
// runs, and is told; the VM stays as it is.
func TestStartingWhatRuns(t *testing.T) {
	s := newStation(t)
	s.start()
	_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: "one", NoStart: true}, nil)
	s.check(err)
	halted, err := testenv.CloseGate(s.halts, "start.boot")
	s.check(err)
	told("vm", "start", "one")(s)
	s.check(halted.Await(patience))
	var warned []string
	again := make(chan error, 1)
	go func() {
		_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, func(e api.StepEvent) { warned = append(warned, e.Detail) })
		again <- err
	}()
	halted.Open()
	s.check(s.outcome())
	s.check(<-again)
	if !slices.Equal(warned, []string{"VM one runs already"}) {
		t.Errorf("the other one is told %q", warned)
	}
	before := s.vm("one")
	s.banger("vm", "start", "one")
	if said := s.said.said.String(); !strings.Contains(said, "VM one runs already") {
		t.Errorf("it says %s", said)
	}
	if diff := cmp.Diff(before, s.vm("one"), cmpopts.IgnoreFields(api.VM{}, "DiskUsed")); diff != "" {
		t.Errorf("the VM is another: %s", diff)
	}
	s.agrees()
	s.empty()
}
