//go:build hosttest

package lives

import (
	"testing"

	"github.com/banger-vm/banger/api"
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
