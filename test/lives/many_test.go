//go:build hosttest

package lives

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
)

func TestAHundredVMs(t *testing.T) {
	s := newStation(t)
	s.start("")
	for n := range 100 {
		_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: fmt.Sprintf("vm-%d", n), NoStart: true}, nil)
		s.check(err)
	}
	if all := s.agrees(); len(all) != 100 {
		t.Errorf("%d VMs are listed", len(all))
	}
	s.kill()
	begun := time.Now()
	s.start("")
	t.Logf("a daemon beside 100 VMs started in %v", time.Since(begun))
	s.agrees()
	s.empty()
}

// lives is how many lives a VM has in a row; make soak asks for more.
func lives() int {
	if n, err := strconv.Atoi(os.Getenv("LIVES")); err == nil {
		return n
	}
	return 100
}

// usage is what a daemon holds of its host.
type usage struct {
	files                     []string
	threads, taps, goroutines int
}

func (s *station) usage() usage {
	s.Helper()
	status, err := s.client.Status(s.ctx())
	s.check(err)
	proc := fmt.Sprintf("/proc/%d/", status.PID)
	u := usage{threads: len(entries(proc + "task")), taps: len(s.taps()), goroutines: status.Goroutines}
	for _, fd := range entries(proc + "fd") {
		if target, err := os.Readlink(proc + "fd/" + fd); err == nil {
			kind, _, _ := strings.Cut(target, ":[") // without the number of a socket or a pipe
			u.files = append(u.files, kind)
		}
	}
	slices.Sort(u.files)
	return u
}

// Many lives in a row leave a daemon with what it had after the first ones.
func TestManyLivesInARow(t *testing.T) {
	s := newStation(t)
	s.start("")
	life := func() {
		s.run("one")
		s.exec("one", "true")
		_, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
		s.check(err)
		_, err = s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
		s.check(err)
		s.check(s.client.DeleteVM(s.ctx(), "one", nil))
	}
	for range 5 {
		life()
	}
	rules := s.rules()
	before := s.usage()
	begun := time.Now()
	for range lives() {
		life()
	}
	t.Logf("%d lives in %v", lives(), time.Since(begun))
	after := s.usage()
	if !slices.Equal(after.files, before.files) || after.taps != before.taps || after.goroutines > before.goroutines+2 || after.threads > before.threads+10 {
		t.Errorf("after %d lives: %+v, before: %+v", lives(), after, before)
	}
	if now := s.rules(); now != rules {
		t.Errorf("the rules were\n%s\nand are\n%s", rules, now)
	}
	s.agrees()
	s.empty()
}
