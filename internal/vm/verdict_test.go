package vm

import (
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
)

func TestVerdict(t *testing.T) {
	tests := []struct {
		name   string
		state  api.State
		ending ending
		to     api.State
		reason string
		again  bool
	}{
		{"poweroff on the console", api.StateRunning, ending{word: wordPowerOff, known: true, status: 137}, api.StateStopped, "the guest powered off", false},
		{"poweroff by the agent's goodbye", api.StateRunning, ending{goodbye: proto.ReasonPoweroff}, api.StateStopped, "the guest powered off", false},
		{"halt", api.StateRunning, ending{word: wordHalt, known: true, status: 137}, api.StateStopped, "the guest halted", false},
		{"reboot on the console", api.StateRunning, ending{word: wordReboot, known: true}, api.StateStopped, "the guest restarts", true},
		{"reboot by the agent's goodbye", api.StateRunning, ending{goodbye: proto.ReasonReboot, known: true}, api.StateStopped, "the guest restarts", true},
		{"panic, which reboots too", api.StateRunning, ending{word: wordPanic, about: "Kernel panic - not syncing: sysrq", known: true}, api.StateFailed, "the guest's kernel panicked: sysrq", false},
		{"init died over its disk", api.StateRunning, ending{word: wordPanic, about: "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000007", diskGone: true, known: true}, api.StateFailed,
			"the guest's kernel panicked: Attempted to kill init! exitcode=0x00000007; " + itsDiskGone, false},
		{"stopped by a person", api.StateStopping, ending{word: wordReboot, known: true}, api.StateStopped, "", false},
		{"deleted", api.StateDeleting, ending{known: true, status: 137}, api.StateDeleting, "", false},
		{"killed by somebody", api.StateRunning, ending{known: true, status: 137}, api.StateFailed, "the VMM was killed by signal 9", false},
		{"killed by the kernel", api.StateRunning, ending{memory: "the host ran out of memory", known: true, status: 137}, api.StateFailed, "the host ran out of memory", false},
		{"killed by the kernel, as a child of the VMM", api.StatePaused, ending{memory: "the host ran out of memory", known: true, status: 1}, api.StateFailed, "the host ran out of memory", false},
		{"a panic for want of memory", api.StateRunning, ending{word: wordPanic, about: "Kernel panic - not syncing: x", memory: "the host ran out of memory"}, api.StateFailed, "the guest's kernel panicked: x", false},
		{"a VMM that gave up", api.StateRunning, ending{known: true, status: 1}, api.StateFailed, "the VMM ended with status 1", false},
		{"killed, or crashed, under a daemon that had not started it", api.StateRunning, ending{watched: true}, api.StateFailed, "the VMM was killed or crashed, its status is not known", false},
		{"nobody saw it", api.StateRunning, ending{}, api.StateFailed, "it ended unseen", false},
		{"the host went down", api.StateRunning, ending{hostRestarted: true}, api.StateStopped, "the host was restarted", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to, reason, again := tt.ending.verdict(tt.state)
			if to != tt.to || reason != tt.reason || again != tt.again {
				t.Errorf("verdict = %s, %q, %v; want %s, %q, %v", to, reason, again, tt.to, tt.reason, tt.again)
			}
			if tt.state == api.StateRunning {
				if err := transition(&Record{State: tt.state}, to, reason); err != nil {
					t.Errorf("the verdict is no transition: %v", err)
				}
			}
		})
	}
}

func TestDecide(t *testing.T) {
	whole := func(s api.State) Record { return Record{Provisioned: true, State: s} }
	session, run, reboot := whole(api.StateRunning), whole(api.StateStarting), whole(api.StateStopped)
	session.Remove, run.Run, reboot.Restart = true, true, true
	work := session
	work.Workspaces = []api.Workspace{{Guest: "/root/repo", Host: "/repo"}}
	tests := []struct {
		name string
		rec  Record
		seen seen
		want action
	}{
		{"a create that never ended", Record{State: api.StateCreated}, seen{}, actDiscard},
		{"created", whole(api.StateCreated), seen{}, actKeep},
		{"a start that never ended", whole(api.StateStarting), seen{}, actEnd},
		{"a start that never ended, its VMM runs", whole(api.StateStarting), seen{alive: true}, actEnd},
		{"running", whole(api.StateRunning), seen{alive: true}, actAdopt},
		{"paused", whole(api.StatePaused), seen{alive: true}, actAdopt},
		{"a stop that never ended", whole(api.StateStopping), seen{alive: true}, actAdopt},
		{"a stop whose VMM is gone", whole(api.StateStopping), seen{}, actSettle},
		{"running, and gone", whole(api.StateRunning), seen{}, actSettle},
		{"stopped", whole(api.StateStopped), seen{}, actKeep},
		{"failed", whole(api.StateFailed), seen{}, actKeep},
		{"a delete that never ended", whole(api.StateDeleting), seen{alive: true}, actDelete},
		{"a session that is over", session, seen{alive: true}, actDelete},
		{"a session that is over, with a workspace", work, seen{alive: true}, actAdopt},
		{"a run that never ended", run, seen{alive: true}, actDiscard},
		{"a reboot that never began", reboot, seen{}, actRestart},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := decide(tt.rec, tt.seen); got != tt.want {
				t.Errorf("decide = %s, want %s", got, tt.want)
			}
		})
	}
}

func TestTransitionRefusesWhatTheTableLacks(t *testing.T) {
	r := Record{State: api.StateDeleting}
	if err := transition(&r, api.StateRunning, ""); err == nil {
		t.Error("a VM that is being deleted became running")
	}
	if r.State != api.StateDeleting {
		t.Errorf("the refused transition left the state %s", r.State)
	}
}
