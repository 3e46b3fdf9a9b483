package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imagePruneOptions struct {
	dryRun bool
	json   bool
}

func newImagePruneCommand(d *deps) *cobra.Command {
	var o imagePruneOptions
	c := &cobra.Command{
		Use:   "prune",
		Short: "Delete images that no VM uses and that can be pulled again",
		Long: `Delete the images of catalogs and registries that no VM uses, but the default image, and what
is kept for further pulls and builds: the layers of container images, and Debian packages. Images
that you made, registered or took from files stay.`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error { return runImagePrune(c.Context(), o, d) },
	}
	c.Flags().BoolVar(&o.dryRun, "dry-run", false, "only say what would go, and how much")
	addJSON(c, &o.json)
	return c
}

func runImagePrune(ctx context.Context, o imagePruneOptions, d *deps) error {
	pruned, err := d.client.PruneImages(ctx, api.PruneImages{DryRun: o.dryRun})
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, pruned)
	}
	for _, i := range pruned.Images {
		fmt.Fprintf(d.out, "%s  %s\n", ui.Clean(i.Name), ui.Bytes(i.Used))
	}
	for _, kept := range []struct {
		what  string
		bytes int64
	}{{"layers of container images", pruned.Layers}, {"Debian packages", pruned.Packages}} {
		if kept.bytes > 0 {
			fmt.Fprintf(d.out, "%s  %s\n", kept.what, ui.Bytes(kept.bytes))
		}
	}
	word := "freed"
	if o.dryRun {
		word = "would be freed"
	}
	_, err = fmt.Fprintf(d.out, "%s %s\n", ui.Bytes(pruned.Freed), word)
	return err
}
