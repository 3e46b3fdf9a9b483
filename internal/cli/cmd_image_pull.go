package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imagePullOptions struct{ json bool }

func newImagePullCommand(d *deps) *cobra.Command {
	var o imagePullOptions
	c := &cobra.Command{
		Use:               "pull <image>",
		Short:             "Get an image of a catalog, and the kernel that it wants",
		Long:              "Get an image that a catalog has, and the kernel that it wants. `vm run` does it by itself. `banger image catalog` lists the names.",
		Example:           "  banger image pull debian-bookworm",
		Args:              one("an image"),
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImagePull(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runImagePull(ctx context.Context, o imagePullOptions, d *deps, name string) error {
	image, err := d.pull(ctx, api.PullImage{Name: name}, o.json)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

// pull gets an image and shows how it comes along.
func (d *deps) pull(ctx context.Context, req api.PullImage, asJSON bool) (api.Image, error) {
	progress := d.progress(asJSON)
	defer progress.Done()
	return d.client.PullImage(ctx, req, progress.Step)
}
