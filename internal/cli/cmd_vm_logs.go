package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type logsOptions struct {
	follow bool
	json   bool
}

func (o *logsOptions) add(c *cobra.Command) {
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with lines to come")
	addJSON(c, &o.json)
}

func newVMLogsCommand(d *deps) *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use:               "logs <vm>",
		Short:             "Show what a guest said: its console, its kernel, its journal",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMLogs(c.Context(), o, d, args[0]) },
	}
	o.add(c)
	return c
}

func runVMLogs(ctx context.Context, o logsOptions, d *deps, vm string) error {
	return d.client.Logs(ctx, vm, o.follow, func(line api.LogLine) error { return d.printLog(line, o.json) })
}

func (d *deps) printLog(line api.LogLine, asJSON bool) error {
	if asJSON {
		return ui.JSONLine(d.out, line)
	}
	_, err := fmt.Fprintf(d.out, "%-7s | %s\n", ui.Clean(line.Source), ui.Clean(line.Text))
	return err
}
