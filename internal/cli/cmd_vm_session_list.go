package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type vmSessionListOptions struct{ json bool }

func newVMSessionListCommand(d *deps) *cobra.Command {
	var o vmSessionListOptions
	c := &cobra.Command{
		Use:               "list <vm>",
		Aliases:           []string{"ls"},
		Short:             "List a VM's sessions, also those that have ended",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSessionList(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMSessionList(ctx context.Context, o vmSessionListOptions, d *deps, vm string) error {
	list, err := d.client.Sessions(ctx, vm)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, list)
	}
	table := ui.NewTable("NAME", "STATE", "STATUS", "STDIN", "AGE", "RAN", "ATTACHED", "COMMAND")
	now := time.Now()
	for _, s := range list {
		table.Row(ui.Clean(s.Name), string(s.State), statusText(s), string(s.Stdin), ui.Age(now, s.Started), ran(now, s),
			strconv.Itoa(s.Attached), ui.Clean(strings.Join(s.Argv, " ")))
	}
	return table.Write(d.out)
}

func statusText(s api.Session) string {
	switch {
	case s.Status != nil:
		return strconv.Itoa(*s.Status)
	case s.State == api.SessionEnded:
		return "unknown"
	}
	return "-"
}

func ran(now time.Time, s api.Session) string {
	switch {
	case s.State == api.SessionRunning:
		return now.Sub(s.Started).Round(time.Second).String()
	case s.Ended.IsZero():
		return "-"
	}
	return s.Ended.Sub(s.Started).Round(time.Second).String()
}

type vmSessionWaitOptions struct {
	vm, session string
	json        bool
}

func newVMSessionWaitCommand(d *deps) *cobra.Command {
	var o vmSessionWaitOptions
	c := &cobra.Command{
		Use:               "wait <vm> <session>",
		Short:             "Wait until a session has ended; its exit status is banger's",
		Args:              sessionArgs(&o.vm, &o.session),
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMSessionWait(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMSessionWait(ctx context.Context, o vmSessionWaitOptions, d *deps) error {
	s, err := d.client.WaitSession(ctx, o.vm, o.session)
	if err != nil {
		return err
	}
	if o.json {
		if err := ui.JSON(d.out, s); err != nil {
			return fmt.Errorf("cannot print the session: %w", err)
		}
	}
	return sessionStatus(s)
}
