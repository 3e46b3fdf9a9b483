// Package undo is a stack of what must be taken back when a chain of steps
// fails half-way.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Timeout bounds one whole unwinding.
const Timeout = 30 * time.Second

// Stack collects undo steps. Its zero value is ready; it is used by one
// goroutine.
type Stack struct {
	steps []step
}

type step struct {
	name string
	undo func(context.Context) error
}

// Push adds the undo of the deed that was just done.
func (s *Stack) Push(name string, undo func(context.Context) error) {
	s.steps = append(s.steps, step{name, undo})
}

// Release forgets all steps: what was done stays.
func (s *Stack) Release() { s.steps = nil }

// Unwind runs the undo steps backwards, every one of them, and joins their
// errors. Its context keeps ctx's values but not its cancelling: a Ctrl-C must
// not abort the clean-up that it caused.
func (s *Stack) Unwind(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		if err := s.steps[i].undo(ctx); err != nil {
			errs = append(errs, fmt.Errorf("cannot undo %s: %w", s.steps[i].name, err))
		}
	}
	s.steps = nil
	return errors.Join(errs...)
}
