package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageCatalogOptions struct{ json bool }

func newImageCatalogCommand(d *deps) *cobra.Command {
	var o imageCatalogOptions
	c := &cobra.Command{
		Use:   "catalog",
		Short: "List the images that can be pulled by name, and where from",
		Long:  "List what the catalogs have: banger's own, and those that `catalogs` of the config names. Of a name that stands in several, the first one's is taken.",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runImageCatalog(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runImageCatalog(ctx context.Context, o imageCatalogOptions, d *deps) error {
	catalogs, err := d.client.Catalogs(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, catalogs)
	}
	table := ui.NewTable("NAME", "TYPE", "LOCAL", "KERNEL", "SIZE", "CATALOG", "DETAIL")
	for _, c := range catalogs {
		if c.Error != "" {
			fmt.Fprint(d.errs, sentence(&api.Error{Message: c.Error, Hint: c.Hint}))
		}
		for _, i := range c.Images {
			table.Row(i.Name, i.Type, yes(i.Local), ui.Or(i.Kernel), sizeOf(i.Size, i.Size > 0), c.Source, detailOf(i))
		}
	}
	return table.Write(d.out)
}

func detailOf(i api.CatalogImage) string {
	if i.Hidden {
		return "(not taken: an earlier catalog has the name)"
	}
	return i.Detail
}
