package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageRegisterOptions struct {
	name    string
	rootfs  string
	kernel  string
	vmlinux string
	modules string
	initrd  string
	json    bool
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
	c.Flags().StringVar(&o.vmlinux, "kernel", "", "a kernel of your own, a `file`: it is imported by the image's name")
	c.Flags().StringVar(&o.modules, "modules", "", "the `directory` of that kernel's modules")
	c.Flags().StringVar(&o.initrd, "initrd", "", "an initrd, a `file` with modules of that kernel in it")
	notBoth(c, "kernel", "kernel-ref")
	completeFlag(c, "kernel-ref", d.completeKernels)
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
	if o.vmlinux == "" && o.modules+o.initrd != "" {
		return bad("add --kernel", "--modules and --initrd belong to a kernel, and there is none here")
	}
	image, err := d.register(ctx, o, rootfs)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

// register names a filesystem, after importing its kernel where it brings one. A
// kernel whose image can't be registered is deleted again.
func (d *deps) register(ctx context.Context, o imageRegisterOptions, rootfs string) (api.Image, error) {
	req := api.RegisterImage{Name: o.name, Rootfs: rootfs, Kernel: o.kernel}
	if o.vmlinux == "" {
		return d.client.RegisterImage(ctx, req)
	}
	kernel, err := importOf(o.name, o.vmlinux, o.modules, o.initrd)
	if err != nil {
		return api.Image{}, err
	}
	progress := d.progress(o.json)
	_, err = d.client.ImportKernel(ctx, kernel, progress.Step)
	progress.Done()
	if err != nil {
		return api.Image{}, err
	}
	req.Kernel = o.name
	image, err := d.client.RegisterImage(ctx, req)
	if err != nil {
		return api.Image{}, errors.Join(err, d.client.DeleteKernel(context.WithoutCancel(ctx), o.name))
	}
	return image, nil
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
	return d.eachTold("deleted", images, func(name string) error { return d.client.DeleteImage(ctx, name) })
}
