//go:build hosttest

package lives

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

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
			func(s *station) { s.kill(); s.start() },
			func(s *station, _ string) { s.end("one", "eat") },
			func(*station) {},
		},
		"unseen": {
			func(s *station) { s.kill() },
			func(s *station, id string) { s.tellGuest(id, "eat") },
			func(s *station) { s.start() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStation(t)
			s.start()
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

// More memory than the host has is warned of, with numbers, and the VM starts.
func TestMoreMemoryThanTheHostHas(t *testing.T) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	total := int64(info.Totalram) * int64(info.Unit) >> 20
	s := newStation(t)
	s.start()
	warned := func(name string, memory int64) string {
		said := ""
		created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: name, MemoryMiB: memory}, func(e api.StepEvent) {
			if e.Warning {
				said += e.Detail
			}
		})
		s.check(err)
		if created.VM.Warning != said || s.vm(name).Warning != said {
			t.Errorf("it said %q, and the VM has %q", said, s.vm(name).Warning)
		}
		return said
	}
	if said := warned("one", 128); said != "" {
		t.Errorf("of 128 MiB it said %q", said)
	}
	want := fmt.Sprintf("this VM may take %d MiB of memory and those that run 128 MiB, %d MiB together, and the host has %d MiB", total-127, total+1, total)
	if said := warned("two", total-127); !strings.HasPrefix(said, want) {
		t.Errorf("it said %q, not %q", said, want)
	}
	s.agrees()
	s.empty()
}
