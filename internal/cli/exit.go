package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

// The exit statuses of banger's own; every other is the guest command's.
const (
	exitUnfit       = 1   // what was asked for was answered, and the answer is no
	exitBanger      = 125 // banger failed
	exitCannotExec  = 126 // the guest can't run the program
	exitNoProgram   = 127 // the guest has no such program
	exitInterrupted = 130 // the user gave up
)

// exitStatus is an error that says nothing: only the status is left to give.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// status is the one place where an error becomes an exit status.
func status(err error) int {
	var own exitStatus
	var told *api.Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &own):
		return int(own)
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case !errors.As(err, &told):
		return exitBanger
	}
	switch told.Kind {
	case api.KindNoProgram:
		return exitNoProgram
	case api.KindCannotExec:
		return exitCannotExec
	case api.KindCanceled:
		return exitInterrupted
	}
	return exitBanger
}

// report tells of err, if there is anything to tell, and gives the exit status.
func report(w io.Writer, err error, asJSON bool) int {
	var silent exitStatus
	if err == nil || errors.As(err, &silent) {
		return status(err)
	}
	for _, e := range split(err) {
		if asJSON {
			_ = ui.JSONLine(w, api.Event{Error: asAPI(e)})
			continue
		}
		fmt.Fprint(w, sentence(asAPI(e)))
	}
	return status(err)
}

// split takes apart what [each] has joined.
func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	var told *api.Error
	if !ok || errors.As(err, &told) && len(joined.Unwrap()) == 1 {
		return []error{err}
	}
	return joined.Unwrap()
}

func asAPI(err error) *api.Error {
	var told *api.Error
	var settings *config.Error
	switch {
	case errors.As(err, &settings):
		return &api.Error{Kind: api.KindBadRequest, Message: settings.Message, Hint: settings.Hint}
	case errors.As(err, &told):
		return told
	case errors.Is(err, context.Canceled):
		return &api.Error{Kind: api.KindCanceled, Message: "interrupted"}
	}
	return &api.Error{Kind: api.KindInternal, Message: err.Error()}
}

func sentence(e *api.Error) string {
	text := "banger: " + ui.CleanLines(strings.TrimRight(e.Message, "\n")) + "\n"
	if e.Hint != "" {
		text += "  hint: " + ui.CleanLines(e.Hint) + "\n"
	}
	return text
}

// usage is a wrong command line.
func usage(c *cobra.Command, message string) error {
	return &api.Error{Kind: api.KindBadRequest, Message: message, Hint: fmt.Sprintf("`%s --help` tells how it is used", c.CommandPath())}
}

// bad is wrong input: nothing was changed.
func bad(hint, format string, args ...any) error {
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// one is a check for a single argument that says which is wanted.
func one(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(c, fmt.Sprintf("%s takes %s, and there is none here", c.CommandPath(), what))
		}
		if len(args) > 1 {
			return usage(c, fmt.Sprintf("%s takes %s, not %d arguments", c.CommandPath(), what, len(args)))
		}
		return nil
	}
}

// atMostOne is a check for a command that can do without its one argument.
func atMostOne(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > 1 {
			return usage(c, fmt.Sprintf("%s takes %s, not %d arguments", c.CommandPath(), what, len(args)))
		}
		return nil
	}
}

// notBoth refuses two flags of which only one can count, on top of what the
// command refuses already.
func notBoth(c *cobra.Command, one, other string) {
	earlier := c.PreRunE
	c.PreRunE = func(c *cobra.Command, args []string) error {
		if earlier != nil {
			if err := earlier(c, args); err != nil {
				return err
			}
		}
		if c.Flags().Changed(one) && c.Flags().Changed(other) {
			return usage(c, fmt.Sprintf("--%s and --%s can't go together", one, other))
		}
		return nil
	}
}

// two is one for two arguments.
func two(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usage(c, fmt.Sprintf("%s takes %s, not %d arguments", c.CommandPath(), what, len(args)))
		}
		return nil
	}
}

// some is a check for one argument at least.
func some(what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage(c, fmt.Sprintf("which %s? %s takes one or more", what, c.CommandPath()))
		}
		return nil
	}
}

func none(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage(c, fmt.Sprintf("%s takes no argument, not %q", c.CommandPath(), args[0]))
	}
	return nil
}
