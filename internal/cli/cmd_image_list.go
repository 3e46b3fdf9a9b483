package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageListOptions struct{ json bool }

func newImageListCommand(d *deps) *cobra.Command {
	var o imageListOptions
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images, local ones and those of the catalog",
		Args:    none,
		RunE:    func(c *cobra.Command, _ []string) error { return runImageList(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runImageList(ctx context.Context, o imageListOptions, d *deps) error {
	images, err := d.client.Images(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, images)
	}
	table := ui.NewTable("NAME", "SOURCE", "LOCAL", "KERNEL", "SIZE", "ON DISK", "AGE")
	for _, i := range images {
		known := i.Local && i.Source != api.ImageBroken
		if i.Source == api.ImageBroken {
			fmt.Fprint(d.errs, sentence(&api.Error{Message: i.Detail}))
		}
		table.Row(i.Name, i.Source, yes(i.Local), ui.Or(i.Kernel), sizeOf(i.Size, known), sizeOf(i.Used, known), ui.Age(time.Now(), i.Created))
	}
	return table.Write(d.out)
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// sizeOf is a dash for what is not there yet.
func sizeOf(bytes int64, local bool) string {
	if !local {
		return "-"
	}
	return ui.Bytes(bytes)
}

type imageShowOptions struct{ json bool }

func newImageShowCommand(d *deps) *cobra.Command {
	var o imageShowOptions
	c := &cobra.Command{
		Use:               "show <image>",
		Short:             "Show all that is known of an image",
		Args:              one("an image"),
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImageShow(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runImageShow(ctx context.Context, o imageShowOptions, d *deps, name string) error {
	image, err := d.client.Image(ctx, name)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	return imageTable(image).Write(d.out)
}

func imageTable(i api.Image) *ui.Table {
	table := ui.NewTable()
	table.Row("name", i.Name)
	table.Row("source", i.Source)
	table.Row("local", yes(i.Local))
	table.Row("kernel", ui.Or(i.Kernel))
	table.Row("root filesystem", ui.Or(i.Rootfs))
	table.Row("size", sizeOf(i.Size, i.Local)+", "+sizeOf(i.Used, i.Local)+" on the host")
	table.Row("file goes with it", yes(i.Managed))
	if i.Digest != "" {
		table.Row("container image", ui.Or(i.Reference))
		table.Row("digest", i.Digest)
		table.Row("platform", i.Platform)
	}
	table.Row("created", moment(i.Created))
	if i.Detail != "" {
		table.Row("detail", i.Detail)
	}
	return table
}
