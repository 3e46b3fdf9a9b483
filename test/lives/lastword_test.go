//go:build hosttest

package lives

import (
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// A program that writes a kernel's last words on the console ends nothing, under
// this bangerd and the next; and the kernel's own are heard behind them.
func TestAProgramWritesTheLastWords(t *testing.T) {
	s := newStation(t)
	s.start()
	one := s.run("one")
	boot := s.exec("one", "boot")
	for i, word := range []string{"[ 99.0] reboot: Power down", "[ 99.0] reboot: System halted"} {
		s.exec("one", "say", word)
		s.awaitLine("one", "the guest lives on", i+1)
	}
	s.exec("one", "say", "[ 99.0] reboot: Restarting system")
	s.kill()
	s.start()
	s.awaitLine("one", "a new bangerd takes the VM up", 1)
	if now := s.exec("one", "boot"); now != boot || s.vm("one").VMM.PID != one.VMM.PID {
		t.Error("it is another boot")
	}
	s.end("one", "poweroff")
	if v := s.awaitState("one", is(api.StateStopped)); v.Reason != "the guest powered off" {
		t.Errorf("it is %s: %s", v.State, v.Reason)
	}
	s.agrees()
	s.empty()
}

// A kernel that goes down takes the disks away while programs still run. A panic
// over that is told as one, under this bangerd and the next.
func TestAPanicOverADiskThatIsGone(t *testing.T) {
	s := newStation(t)
	s.start()
	for _, seen := range []bool{true, false} {
		v := s.run("one")
		s.exec("one", "say", "[   17.271596] I/O error, dev vda, sector 1492416 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2")
		if seen {
			s.end("one", "panic")
		} else {
			s.kill()
			s.tellGuest(v.ID, "panic")
			s.check(testenv.AwaitEnd(v.VMM.PID, patience))
			s.start()
		}
		v = s.awaitState("one", is(api.StateFailed))
		if want := "it was asked to; its disk no longer answered"; !strings.Contains(v.Reason, want) {
			t.Errorf("it is failed: %s", v.Reason)
		}
		s.check(s.client.DeleteVM(s.ctx(), "one", nil))
		s.run("one")
		s.end("one", "panic")
		if v := s.awaitState("one", is(api.StateFailed)); v.Reason != "the guest's kernel panicked: it was asked to" {
			t.Errorf("it is failed: %s", v.Reason)
		}
		s.check(s.client.DeleteVM(s.ctx(), "one", nil))
	}
	s.agrees()
	s.empty()
}

// A guest that goes down may take its commands along before the end of its VMM is
// seen: whoever ran one is told of the VM's end all the same.
func TestACommandThatItsGuestTakesAlong(t *testing.T) {
	for word, want := range map[string]string{
		"poweroff": "one ended while the command ran: it is stopped (the guest powered off)",
		"reboot":   "one ended while the command ran",
	} {
		t.Run(word, func(t *testing.T) {
			s := newStation(t)
			s.start()
			s.run("one")
			s.tell("vm", "exec", "one", "--", "hangup")
			s.awaitLog("one", func(line api.LogLine) bool { return line.Text == "hung up" })
			ran := s.said
			s.end("one", word)
			s.said = ran
			if err := s.outcome(); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("it does not say %q: %v", want, err)
			}
			s.empty()
		})
	}
}
