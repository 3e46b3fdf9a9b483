package vm

import (
	"context"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// The names of all steps, operation by operation and in order. A test that
// kills the daemon at every step walks these lists; a step that is not in them
// panics.
var (
	CreateSteps = []string{"create.record", "create.image", "create.kernel", "create.disk", "create.commit"}
	StartSteps  = []string{"start.record", "start.kernel", "start.network", "start.console", "start.ports", "start.spawn", "start.identity", "start.configure", "start.boot", "start.agent", "start.commit"}
	StopSteps   = []string{"stop.record", "stop.shutdown", "stop.kill"}
	EndSteps    = []string{"end.network", "end.directory", "end.commit"}
	DeleteSteps = []string{"delete.record", "delete.kill", "delete.directory"}
	PauseSteps  = []string{"pause.record", "pause.vmm"}
	ResumeSteps = []string{"resume.vmm", "resume.record"}
)

var known = func() map[string]bool {
	all := map[string]bool{}
	for _, list := range [][]string{CreateSteps, StartSteps, StopSteps, EndSteps, DeleteSteps, PauseSteps, ResumeSteps} {
		for _, name := range list {
			all[name] = true
		}
	}
	return all
}()

// steps runs the named steps of one operation and keeps how long each took.
type steps struct {
	m      *Manager
	report progress.Func
	took   []api.Step
}

func (m *Manager) steps(report progress.Func) *steps { return &steps{m: m, report: report} }

func (s *steps) do(ctx context.Context, name string, deed func() error) error {
	if !known[name] {
		panic("step without a name in the lists: " + name)
	}
	s.report(progress.Event{Step: name})
	s.m.AtStep(name)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	begun := time.Now()
	err := deed()
	s.took = append(s.took, api.Step{Name: name, Took: time.Since(begun)})
	return err
}
