package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

func newVMDeleteCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:               "delete <vm>…",
		Aliases:           []string{"rm"},
		Short:             "Delete VMs and their disks, running or not",
		Args:              some("VMs"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMDelete(c.Context(), d, args) },
	}
}

func runVMDelete(ctx context.Context, d *deps, vms []string) error {
	return each(vms, func(name string) error {
		progress := d.progress(false)
		defer progress.Done()
		return d.client.DeleteVM(ctx, name, progress.Step)
	})
}

type vmPruneOptions struct{ json bool }

func newVMPruneCommand(d *deps) *cobra.Command {
	var o vmPruneOptions
	c := &cobra.Command{
		Use:   "prune",
		Short: "Delete every VM that is stopped or failed",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runVMPrune(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMPrune(ctx context.Context, o vmPruneOptions, d *deps) error {
	progress := d.progress(o.json)
	defer progress.Done()
	pruned, err := d.client.Prune(ctx, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, append([]string{}, pruned...))
	}
	for _, name := range pruned {
		fmt.Fprintln(d.out, ui.Clean(name))
	}
	return nil
}
