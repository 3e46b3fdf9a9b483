package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type kernelPullOptions struct{ json bool }

func newKernelPullCommand(d *deps) *cobra.Command {
	var o kernelPullOptions
	c := &cobra.Command{
		Use:               "pull <kernel>",
		Short:             "Get the newest version of a kernel of the catalog",
		Long:              "Get the newest version of a kernel of the catalog, a security update for instance. VMs that run keep theirs until they are restarted.",
		Example:           "  banger kernel pull generic-6.12",
		Args:              one("a kernel"),
		ValidArgsFunction: d.completeKernels,
		RunE:              func(c *cobra.Command, args []string) error { return runKernelPull(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runKernelPull(ctx context.Context, o kernelPullOptions, d *deps, name string) error {
	progress := d.progress(o.json)
	k, err := d.client.PullKernel(ctx, name, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	return d.printKernel(k, o.json)
}

// printKernel ends a command that got a kernel: with its name and version, or
// all of it.
func (d *deps) printKernel(k api.Kernel, asJSON bool) error {
	if asJSON {
		return ui.JSON(d.out, k)
	}
	_, err := fmt.Fprintln(d.out, ui.Clean(k.Name+" "+k.Version))
	return err
}

func newKernelDeleteCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:               "delete <kernel>…",
		Aliases:           []string{"rm"},
		Short:             "Delete kernels that no VM starts with",
		Args:              some("kernels"),
		ValidArgsFunction: d.completeKernels,
		RunE: func(c *cobra.Command, args []string) error {
			return d.eachTold("deleted", args, func(name string) error { return d.client.DeleteKernel(c.Context(), name) })
		},
	}
}
