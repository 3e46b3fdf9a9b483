//go:build hosttest

package lives

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// starve gives a VM's VMM a cgroup in which there is little memory.
func (s *station) starve(pid int) {
	s.Helper()
	limit, err := testenv.LimitMemory(fmt.Sprintf("banger-lives-%d-%d", os.Getpid(), pid), 64<<20)
	s.check(err)
	s.Cleanup(func() {
		s.endProcess(pid)
		s.check(limit.Close())
	})
	s.check(limit.Add(pid))
}

// The kernel's OOM killer ends a VMM: that is the reason its VM has failed, also
// for a daemon that took the VM up, and for one that did not live to see it.
func TestKilledForWantOfMemory(t *testing.T) {
	const reason = "and the kernel killed the VMM (process "
	for name, tt := range map[string]struct {
		before func(s *station)            // the kill
		kill   func(s *station, id string) // tells the guest to eat
		after  func(s *station)
	}{
		"watched": {
			func(*station) {},
			func(s *station, _ string) { s.end("one", "eat") },
			func(*station) {},
		},
		"adopted": {
			func(s *station) { s.kill(); s.start("") },
			func(s *station, _ string) { s.end("one", "eat") },
			func(*station) {},
		},
		"unseen": {
			func(s *station) { s.kill() },
			func(s *station, id string) { s.tellGuest(id, "eat") },
			func(s *station) { s.start("") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStation(t)
			s.start("")
			v := s.run("one")
			s.starve(v.VMM.PID)
			tt.before(s)
			tt.kill(s, v.ID)
			s.check(testenv.AwaitEnd(v.VMM.PID, patience))
			tt.after(s)
			v = s.awaitState("one", is(api.StateFailed))
			if !strings.Contains(v.Reason, "memory limit was reached, "+reason) {
				t.Errorf("the reason is %q", v.Reason)
			}
			s.agrees()
			_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
			s.check(err)
			s.exec("one", "true")
			s.agrees()
			s.empty()
		})
	}
}
