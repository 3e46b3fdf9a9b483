package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageRegisterOptions struct {
	name   string
	rootfs string
	kernel string
	json   bool
}

func newImageRegisterCommand(d *deps) *cobra.Command {
	var o imageRegisterOptions
	c := &cobra.Command{
		Use:     "register --name <name> --rootfs <file>",
		Short:   "Give a name to an ext4 file that is already there",
		Long:    "Give a name to an ext4 root filesystem that is already on the host. The file stays yours: VMs only read it, and deleting the image leaves it alone.",
		Example: "  banger image register --name base --rootfs /srv/rootfs.ext4 --kernel-ref generic-6.12",
		Args:    none,
		RunE:    func(c *cobra.Command, _ []string) error { return runImageRegister(c.Context(), o, d) },
	}
	c.Flags().StringVar(&o.name, "name", "", "the image's `name`")
	c.Flags().StringVar(&o.rootfs, "rootfs", "", "the ext4 `file`")
	c.Flags().StringVar(&o.kernel, "kernel-ref", "", "the `kernel` it starts with unless told otherwise")
	addJSON(c, &o.json)
	return c
}

func runImageRegister(ctx context.Context, o imageRegisterOptions, d *deps) error {
	if o.name == "" || o.rootfs == "" {
		return bad("write `banger image register --name base --rootfs /path/rootfs.ext4`", "an image needs --name and --rootfs")
	}
	rootfs, err := filepath.Abs(o.rootfs)
	if err != nil {
		return fmt.Errorf("cannot find %s: %w", o.rootfs, err)
	}
	image, err := d.client.RegisterImage(ctx, api.RegisterImage{Name: o.name, Rootfs: rootfs, Kernel: o.kernel})
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

func newImageDeleteCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:               "delete <image>…",
		Aliases:           []string{"rm"},
		Short:             "Delete images; the file of a registered one stays",
		Args:              some("images"),
		ValidArgsFunction: d.completeImages,
		RunE:              func(c *cobra.Command, args []string) error { return runImageDelete(c.Context(), d, args) },
	}
}

func runImageDelete(ctx context.Context, d *deps, images []string) error {
	return each(images, func(name string) error { return d.client.DeleteImage(ctx, name) })
}
