package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageExportOptions struct {
	to   string
	json bool
}

func newImageExportCommand(d *deps) *cobra.Command {
	var o imageExportOptions
	c := &cobra.Command{
		Use:               "export <image> -o <file.tar.zst>",
		Short:             "Write an image as one file, and print its catalog entry",
		Example:           "  banger image export base -o base.tar.zst",
		Args:              one("an image"),
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImageExport(c.Context(), o, d, args[0]) },
	}
	c.Flags().StringVarP(&o.to, "output", "o", "", "the `file` to write; one that is there is replaced")
	addJSON(c, &o.json)
	return c
}

func runImageExport(ctx context.Context, o imageExportOptions, d *deps, name string) error {
	if o.to == "" {
		return bad(fmt.Sprintf("write `banger image export %s -o %s.tar.zst`", name, name), "an export needs --output")
	}
	file, err := filepath.Abs(o.to)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", o.to, err)
	}
	done, err := d.export(ctx, name, api.ExportImage{File: file}, o.json)
	if err != nil {
		return err
	}
	return ui.JSON(d.out, done.Entry) // what goes into a catalog, with --json or without
}

// export writes a bundle and shows how it comes along.
func (d *deps) export(ctx context.Context, name string, req api.ExportImage, asJSON bool) (api.Exported, error) {
	progress := d.progress(asJSON)
	defer progress.Done()
	return d.client.ExportImage(ctx, name, req, progress.Step)
}

func newImagePublishCommand(d *deps) *cobra.Command {
	var o imageExportOptions
	c := &cobra.Command{
		Use:               "publish <image> --to <directory>",
		Short:             "Add an image to a catalog in a directory, for a web server",
		Long:              "Write an image as a bundle into a directory and put it into the catalog there. Any web server can serve the directory; `catalogs` of the config then names the address of its catalog.json.",
		Example:           "  banger image publish base --to /srv/www/images",
		Args:              one("an image"),
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImagePublish(c.Context(), o, d, args[0]) },
	}
	c.Flags().StringVar(&o.to, "to", "", "the `directory`; it is made when it is missing")
	addJSON(c, &o.json)
	return c
}

func runImagePublish(ctx context.Context, o imageExportOptions, d *deps, name string) error {
	if o.to == "" {
		return bad(fmt.Sprintf("write `banger image publish %s --to /srv/www/images`", name), "a publication needs --to")
	}
	folder, err := filepath.Abs(o.to)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", o.to, err)
	}
	done, err := d.export(ctx, name, api.ExportImage{Folder: folder}, o.json)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, done)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(done.File))
	return err
}
