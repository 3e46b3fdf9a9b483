//go:build hosttest

package lives

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// hostSlept gives bangerd the event of a suspend.
func (s *station) hostSlept(how string) {
	s.Helper()
	fifo, err := os.OpenFile(s.clock, os.O_WRONLY, 0)
	s.check(err)
	defer fifo.Close()
	_, err = fifo.WriteString(how + "\n")
	s.check(err)
}

// awaitLine follows a VM's log until n lines have a text in them.
func (s *station) awaitLine(name, text string, n int) {
	s.Helper()
	s.awaitLog(name, func(line api.LogLine) bool {
		if strings.Contains(line.Text, text) {
			n--
		}
		return n == 0
	})
}

// After a host's sleep the clock of every guest is set, whichever daemon took
// the VM up. Before, and after a wake-up without a sleep, it is as wrong as it
// was.
func TestGuestsClocksAfterTheHostSlept(t *testing.T) {
	s := newStation(t)
	s.clock = filepath.Join(s.dir, "clock")
	s.check(unix.Mkfifo(s.clock, 0o600))
	s.start()
	for _, name := range []string{"one", "two"} {
		s.run(name)
		s.exec(name, "shift")
	}
	s.hostSlept("0s")
	for _, name := range []string{"one", "two"} {
		if wrong := s.exec(name, "clock"); wrong != "1m0s" {
			t.Errorf("before the event the clock of %s is wrong by %s", name, wrong)
		}
	}
	s.hostSlept("8h")
	for _, name := range []string{"one", "two"} {
		s.awaitLine(name, "the host slept for 8h0m0s, and the guest's clock is set", 1)
		if wrong := s.exec(name, "clock"); wrong != "0s" {
			t.Errorf("the clock of %s is wrong by %s", name, wrong)
		}
	}
	s.kill()
	s.start()
	s.exec("one", "shift")
	s.hostSlept("9h")
	s.awaitLine("one", "the host slept for 9h0m0s, and the guest's clock is set", 1)
	if wrong := s.exec("one", "clock"); wrong != "0s" {
		t.Errorf("the clock is wrong by %s", wrong)
	}
	s.agrees()
	s.empty()
}
