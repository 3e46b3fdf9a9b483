// Package killtest ends what a test does at one of its steps: it kills the process
// that does it, or has the client go for whom it is done.
package killtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
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

// Work makes a T in a store, step by step.
type Work[T any] struct {
	Make   func(ctx context.Context) (T, error)
	AtStep func(call func(step string)) // has this called at each step
	// Missing fails the test if there is a T, why being the reason that there must
	// be none; Whole if it is not whole, or anything lies beside it. Whole takes
	// it away, so that it can be made again.
	Missing func(why string)
	Whole   func(made T)
}

// EveryStep kills, at each of these steps, who makes a T, and then has the client
// go for whom it is made: there is none then. The same again, over all that the
// killed one left, makes a whole one by these steps. Arrange gives what open needs,
// which is called in the process that is killed too. The last T is returned.
func EveryStep[T any](t *testing.T, steps []string, arrange func() []string, open func(args []string) Work[T]) (made T) {
	t.Helper()
	if v := Self(); v != nil {
		work := open(v.Args)
		work.AtStep(v.AtStep)
		_, err := work.Make(t.Context())
		v.Lives(t, err)
	}
	args := arrange()
	work := open(args)
	for _, step := range steps {
		Kill(t, step, args...)
		work.Missing("killed at " + step)
		ctx, atStep := Gone(t, step)
		work.AtStep(atStep)
		if _, err := work.Make(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("its client went at %q: %v", step, err)
		}
		work.Missing("its client went at " + step)
		var mu sync.Mutex // two steps may begin at once
		var went []string
		work.AtStep(func(at string) { mu.Lock(); defer mu.Unlock(); went = append(went, at) })
		var err error
		if made, err = work.Make(t.Context()); err != nil {
			t.Fatalf("after %q: %v", step, err)
		}
		if !slices.Equal(sorted(went), sorted(steps)) {
			t.Errorf("it goes through %q, the list has %q", went, steps)
		}
		work.Whole(made)
	}
	return made
}

// sorted is for steps of which either may begin first.
func sorted(steps []string) []string { return slices.Sorted(slices.Values(steps)) }
