package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

type kernelListOptions struct{ json bool }

func newKernelListCommand(d *deps) *cobra.Command {
	var o kernelListOptions
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the kernels, local ones and those of the catalog",
		Args:    none,
		RunE:    func(c *cobra.Command, _ []string) error { return runKernelList(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runKernelList(ctx context.Context, o kernelListOptions, d *deps) error {
	kernels, err := d.client.Kernels(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, kernels)
	}
	table := ui.NewTable("NAME", "VERSION", "SOURCE", "LOCAL", "SIZE", "AGE")
	for _, k := range kernels {
		table.Row(k.Name, ui.Or(k.Version), k.Source, yes(k.Local), sizeOf(k.Size, k.Local), ui.Age(time.Now(), k.Created))
	}
	return table.Write(d.out)
}
