package cli

import (
	"context"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// stopGrace is how long a session may take to end when it is asked to.
const stopGrace = 10 * time.Second

type vmSessionStopOptions struct{ grace time.Duration }

func newVMSessionStopCommand(d *deps) *cobra.Command {
	var o vmSessionStopOptions
	c := &cobra.Command{
		Use:   "stop <vm> <session>…",
		Short: "End sessions: TERM, and KILL for what is left after a while",
		Long: `End sessions: all their processes get a TERM, and those that are left after the grace a
KILL. It returns when the sessions have ended. What they printed stays.`,
		Args:              sessionsArgs,
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSessionStop(c.Context(), o, d, args) },
	}
	c.Flags().DurationVar(&o.grace, "grace", stopGrace, "how much `time` they may take")
	return c
}

// sessionsArgs takes a VM and sessions.
func sessionsArgs(c *cobra.Command, args []string) error {
	if len(args) < 2 {
		return usage(c, c.CommandPath()+" takes a VM and one or more sessions")
	}
	return nil
}

func runVMSessionStop(ctx context.Context, o vmSessionStopOptions, d *deps, args []string) error {
	if o.grace < 0 {
		return bad("", "--grace %s: it can't be negative", o.grace)
	}
	return d.eachTold("stopped", args[1:], func(session string) error {
		if err := d.client.StopSession(ctx, args[0], session, api.StopSession{Grace: o.grace}); err != nil {
			return err
		}
		_, err := d.client.WaitSession(ctx, args[0], session)
		return err
	})
}

type vmSessionKillOptions struct{ signal string }

func newVMSessionKillCommand(d *deps) *cobra.Command {
	var o vmSessionKillOptions
	c := &cobra.Command{
		Use:   "kill <vm> <session>…",
		Short: "Kill sessions, or send them another signal",
		Long: `Send all processes of sessions a signal, KILL unless told otherwise. After a KILL it
returns when the sessions have ended.`,
		Args:              sessionsArgs,
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSessionKill(c.Context(), o, d, args) },
	}
	c.Flags().StringVarP(&o.signal, "signal", "s", "KILL", "the `signal`: a name like INT or a number")
	return c
}

func runVMSessionKill(ctx context.Context, o vmSessionKillOptions, d *deps, args []string) error {
	number, err := parseSignal(o.signal)
	if err != nil {
		return err
	}
	return d.eachTold("got the signal", args[1:], func(session string) error {
		err := d.client.SignalSession(ctx, args[0], session, api.SignalSession{Signal: int(number)})
		if err == nil && number == unix.SIGKILL {
			_, err = d.client.WaitSession(ctx, args[0], session)
		}
		return err
	})
}

func parseSignal(text string) (syscall.Signal, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return syscall.Signal(n), nil
	}
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return s, nil
	}
	return 0, bad("a name like INT or TERM, or a number", "there is no signal %q", text)
}

type vmSessionDeleteOptions struct{ force bool }

func newVMSessionDeleteCommand(d *deps) *cobra.Command {
	var o vmSessionDeleteOptions
	c := &cobra.Command{
		Use:               "delete <vm> <session>…",
		Aliases:           []string{"rm"},
		Short:             "Forget sessions that have ended, and what they printed",
		Args:              sessionsArgs,
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSessionDelete(c.Context(), o, d, args) },
	}
	c.Flags().BoolVarP(&o.force, "force", "f", false, "kill those that run")
	return c
}

func runVMSessionDelete(ctx context.Context, o vmSessionDeleteOptions, d *deps, args []string) error {
	return d.eachTold("deleted", args[1:], func(session string) error {
		if o.force {
			if err := d.killSession(ctx, args[0], session); err != nil {
				return err
			}
		}
		return d.client.DeleteSession(ctx, args[0], session)
	})
}

// killSession kills a session unless it has ended.
func (d *deps) killSession(ctx context.Context, vm, session string) error {
	s, err := d.client.Session(ctx, vm, session)
	if err != nil || s.State == api.SessionEnded {
		return err
	}
	return runVMSessionKill(ctx, vmSessionKillOptions{signal: "KILL"}, d, []string{vm, session})
}
