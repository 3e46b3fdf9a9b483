package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

type kernelShowOptions struct{ json bool }

func newKernelShowCommand(d *deps) *cobra.Command {
	var o kernelShowOptions
	c := &cobra.Command{
		Use:               "show <kernel>",
		Short:             "Show all that is known of a kernel",
		Args:              one("a kernel"),
		ValidArgsFunction: d.completeKernels,
		RunE:              func(c *cobra.Command, args []string) error { return runKernelShow(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runKernelShow(ctx context.Context, o kernelShowOptions, d *deps, name string) error {
	k, err := d.client.Kernel(ctx, name)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, k)
	}
	table := ui.NewTable()
	table.Row("name", k.Name)
	table.Row("source", k.Source)
	table.Row("local", yes(k.Local))
	table.Row("version", ui.Or(k.Version))
	table.Row("release", ui.Or(k.Release))
	table.Row("size", sizeOf(k.Size, k.Local))
	table.Row("vmlinux", ui.Or(k.Vmlinux))
	table.Row("modules", ui.Or(k.Modules))
	table.Row("created", moment(k.Created))
	if k.WholeCopies {
		table.Row("disks", "it has no device-mapper: each VM gets a copy of its image")
	}
	return table.Write(d.out)
}
