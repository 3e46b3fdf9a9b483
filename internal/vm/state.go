package vm

import (
	"fmt"
	"slices"

	"github.com/banger-vm/banger/api"
)

// next lists, for every state, the states that may follow it. Deleting may
// follow every state, and a failed start goes back to where it came from.
var next = map[api.State][]api.State{
	api.StateCreated:  {api.StateStarting, api.StateDeleting},
	api.StateStarting: {api.StateRunning, api.StateCreated, api.StateStopped, api.StateFailed, api.StateDeleting},
	api.StateRunning:  {api.StatePaused, api.StateStopping, api.StateStopped, api.StateFailed, api.StateStarting, api.StateDeleting},
	api.StatePaused:   {api.StateRunning, api.StateStopping, api.StateStopped, api.StateFailed, api.StateDeleting},
	api.StateStopping: {api.StateStopped, api.StateRunning, api.StateFailed, api.StateStarting, api.StateDeleting},
	api.StateStopped:  {api.StateStarting, api.StateDeleting},
	api.StateFailed:   {api.StateStarting, api.StateDeleting, api.StateStopped},
	api.StateDeleting: {},
}

// reasonLimit bounds a reason, which may quote a guest: it is in the record, whose
// length recordLimit bounds, and in a line of the log.
const reasonLimit = lineLimit / 2

// transition moves a record to another state. A move that the table does not
// have is a fault of banger's, not of the user's.
func transition(r *Record, to api.State, reason string) error {
	if r.State != to && !slices.Contains(next[r.State], to) {
		return fmt.Errorf("cannot make VM %s %s: it is %s", r.Name, to, r.State)
	}
	r.State, r.Reason = to, clip(reason, reasonLimit)
	return nil
}

// require is what a person is told who asks for something that the VM's state
// does not allow.
func require(r Record, doing string, allowed ...api.State) error {
	if slices.Contains(allowed, r.State) {
		return nil
	}
	return &api.Error{
		Kind:    api.KindWrongState,
		Message: fmt.Sprintf("cannot %s VM %s: it is %s", doing, r.Name, condition(r)),
		Hint:    hintFor(r),
	}
}

// isBeingMade says whether the command that makes the VM still goes on, with the VM's
// first start where that is part of it.
func isBeingMade(r Record) bool { return r.State == api.StateCreated && (!r.Provisioned || r.Run) }

// condition is a VM's state for a person.
func condition(r Record) string {
	if isBeingMade(r) {
		return "still being made"
	}
	return string(r.State)
}

func hintFor(r Record) string {
	if isBeingMade(r) || r.State == api.StateStarting {
		return fmt.Sprintf("banger vm start %s waits until it runs, banger vm show %s tells how far it is", r.Name, r.Name)
	}
	switch r.State {
	case api.StateRunning, api.StatePaused:
		return fmt.Sprintf("banger vm ssh %s", r.Name)
	case api.StateCreated, api.StateStopped:
		return fmt.Sprintf("banger vm start %s", r.Name)
	case api.StateFailed:
		return fmt.Sprintf("banger vm logs %s tells why; banger vm start %s tries again", r.Name, r.Name)
	case api.StateDeleting: // who reads this finds it no more
		return "banger vm list shows the VMs there are"
	default:
		return fmt.Sprintf("banger vm show %s tells how far it is", r.Name)
	}
}
