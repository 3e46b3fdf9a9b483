package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageTagOptions struct{ json bool }

func newImageTagCommand(d *deps) *cobra.Command {
	var o imageTagOptions
	c := &cobra.Command{
		Use:     "tag <image> <name>",
		Short:   "Give an image a second name; both share one file",
		Example: "  banger image tag base base-2026",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage(c, fmt.Sprintf("%s takes an image and a new name, not %d arguments", c.CommandPath(), len(args)))
			}
			return nil
		},
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImageTag(c.Context(), o, d, args[0], args[1]) },
	}
	addJSON(c, &o.json)
	return c
}

func runImageTag(ctx context.Context, o imageTagOptions, d *deps, name, second string) error {
	image, err := d.client.TagImage(ctx, name, second)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}
