//go:build hosttest

package lives

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// makeOdd makes a VM, and writes on its disk how its guest boots.
func (s *station) makeOdd(name, manner string) {
	s.Helper()
	created, err := s.client.Create(s.ctx(), api.CreateRequest{Name: name, NoStart: true}, nil)
	s.check(err)
	disk, err := os.OpenFile(filepath.Join(s.stateDir(), created.VM.ID, "disk.cow"), os.O_WRONLY, 0)
	s.check(err)
	_, err = disk.WriteAt([]byte(manner), 0)
	s.check(errors.Join(err, disk.Close()))
}

// A guest whose kernel panics while it boots is booted again, and not for ever.
func TestPanicsOfABoot(t *testing.T) {
	for dots, wanted := range map[string]api.State{".": api.StateRunning, "..": api.StateRunning, "...": api.StateCreated} {
		t.Run(dots, func(t *testing.T) {
			s := newStation(t)
			s.start()
			s.makeOdd("one", "panic"+dots)
			warned := 0
			_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, func(e api.StepEvent) {
				if strings.Contains(e.Detail, "started once more") {
					warned++
				}
			})
			v := s.vm("one")
			if v.State != wanted {
				t.Errorf("it is %s (%s), not %s: %v", v.State, v.Reason, wanted, err)
			}
			if (err == nil) != (wanted == api.StateRunning) || err != nil && !strings.Contains(err.Error(), "Kernel panic") {
				t.Errorf("the start ended with %v", err)
			}
			if warned != min(len(dots), 2) {
				t.Errorf("it was told %d times", warned)
			}
			s.agrees()
			s.empty()
		})
	}
}
