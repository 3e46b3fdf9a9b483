// Package killtest ends what a test does at one of its steps: it kills the process
// that does it, or has the client go for whom it is done.
package killtest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// The environment of a process that kills itself: at which step, and what the test
// told it.
const (
	stepVar = "BANGER_TEST_KILL_AT"
	argsVar = "BANGER_TEST_KILL_ARGS"
)

// between separates a victim's arguments.
const between = "\n"

// Victim is a process that does what is tested and kills itself at a step.
type Victim struct {
	Args []string // those of Kill
	step string
}

// Self is this process as a victim, nil unless it is one.
func Self() *Victim {
	step := os.Getenv(stepVar)
	if step == "" {
		return nil
	}
	return &Victim{Args: strings.Split(os.Getenv(argsVar), between), step: step}
}

// AtStep is to be called at each step. It does not return from the victim's.
func (v *Victim) AtStep(step string) {
	if step != v.step {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal comes in a moment
}

// Lives fails the test: the victim did all there was, and err came of it.
func (v *Victim) Lives(t *testing.T, err error) {
	t.Helper()
	t.Fatalf("it was not killed: %v", err)
}

// Kill runs the test once more, as a victim that kills itself at a step, and waits
// for its end.
func Kill(t *testing.T, step string, args ...string) {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.Env = append(os.Environ(), stepVar+"="+step, argsVar+"="+strings.Join(args, between))
	if out, err := cmd.CombinedOutput(); fmt.Sprint(err) != "signal: killed" {
		t.Fatalf("at %q: %v\n%s", step, err, out)
	}
}

// Gone gives the context of a client who goes at a step, and what is to be called
// at each.
func Gone(t *testing.T, step string) (context.Context, func(string)) {
	ctx, cancel := context.WithCancel(t.Context())
	return ctx, func(at string) {
		if at == step {
			cancel()
		}
	}
}
