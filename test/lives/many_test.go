//go:build hosttest

package lives

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/test/agree"
)

func TestAHundredVMs(t *testing.T) {
	s := newStation(t)
	s.start()
	for n := range 100 {
		_, err := s.client.Create(s.ctx(), api.CreateRequest{Name: fmt.Sprintf("vm-%d", n), NoStart: true}, nil)
		s.check(err)
	}
	if all := s.agrees(); len(all) != 100 {
		t.Errorf("%d VMs are listed", len(all))
	}
	s.kill()
	begun := time.Now()
	s.start()
	t.Logf("a daemon beside 100 VMs started in %v", time.Since(begun))
	s.agrees()
	s.empty()
}

var place = regexp.MustCompile(`^place [0-9]+ in the queue$`)

// As many boots at once as there are processors; the others are told their
// place, and all come to their turn.
func TestTwentyAtOnce(t *testing.T) {
	s := newStation(t)
	s.start()
	var waited atomic.Int32
	failures := make(chan error, max(20, 2*runtime.NumCPU()))
	for n := range cap(failures) {
		go func() {
			failures <- s.session(fmt.Sprintf("vm-%d", n), func(e api.StepEvent) {
				if e.Name == "queue" && place.MatchString(e.Detail) {
					waited.Add(1)
				}
			})
		}()
	}
	for range cap(failures) {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	if waited.Load() == 0 {
		t.Error("nobody was told his place in the queue")
	}
	if left := s.agrees(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	s.empty()
}

// session is `banger vm run --rm -- true`.
func (s *station) session(name string, report client.Report) error {
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: name, Remove: true}, report)
	if err != nil {
		return err
	}
	defer created.Close()
	command, err := s.client.Exec(s.ctx(), name, api.ExecRequest{Argv: []string{"true"}})
	if err != nil {
		return err
	}
	if _, err := command.Run(s.ctx(), nil, io.Discard, io.Discard); err != nil {
		return err
	}
	return s.client.DeleteVM(s.ctx(), name, nil)
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
	memory                    int // KiB resident
}

// within says whether u is no more than before.
func (u usage) within(before usage) bool {
	return slices.Equal(u.files, before.files) && u.taps == before.taps && u.goroutines <= before.goroutines+2 &&
		u.threads <= before.threads+10 && u.memory <= before.memory+moreMemory
}

func (s *station) usage() usage {
	s.Helper()
	s.client.Close() // this client's own spare connections
	status, err := s.client.Status(s.ctx())
	s.check(err)
	taps, err := s.host().Taps()
	s.check(err)
	proc := fmt.Sprintf("/proc/%d/", status.PID)
	u := usage{threads: len(agree.Names(proc + "task")), taps: len(taps), goroutines: status.Goroutines}
	for _, fd := range agree.Names(proc + "fd") {
		if target, err := os.Readlink(proc + "fd/" + fd); err == nil {
			kind, _, _ := strings.Cut(target, ":[") // without the number of a socket or a pipe
			u.files = append(u.files, kind)
		}
	}
	slices.Sort(u.files)
	text, err := os.ReadFile(proc + "status")
	s.check(err)
	_, resident, _ := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(resident, &u.memory); err != nil {
		s.Fatalf("no VmRSS in %s", text)
	}
	return u
}

// moreMemory is what the Go runtime takes and gives back as it likes, in KiB.
const moreMemory = 16 << 10

// Many lives in a row leave a daemon with what it had after the first ones.
func TestManyLivesInARow(t *testing.T) {
	s := newStation(t)
	s.start()
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
	for late := time.Now().Add(patience); !after.within(before); after = s.usage() { // a connection closes a moment after its answer
		if time.Now().After(late) {
			t.Fatalf("after %d lives: %+v, before: %+v", lives(), after, before)
		}
	}
	if now := s.rules(); now != rules {
		t.Errorf("the rules were\n%s\nand are\n%s", rules, now)
	}
	s.agrees()
	s.empty()
}
