package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type imagePullOptions struct {
	reference string
	tar       string
	name      string
	kernel    string
	platform  string
	plainHTTP bool
	maxSize   string
	json      bool
}

func newImagePullCommand(d *deps) *cobra.Command {
	var o imagePullOptions
	c := &cobra.Command{
		Use:   "pull <name or reference>",
		Short: "Get an image of a catalog or of a registry, and the kernel that it wants",
		Long: `Get an image, and the kernel that it wants: of a catalog, by its name, or a
container image, by its reference; what has a / or a : is one. ` + "`vm run --image`" + ` does
it by itself. ` + "`banger image catalog`" + ` lists the names.

Credentials for a registry are those of ~/.docker/config.json and the helpers it
names. Layers are kept in banger's cache and need not come twice.`,
		Example: `  banger image pull debian-bookworm
  banger image pull docker.io/library/alpine:3.20 --kernel-ref generic-6.12
  banger image pull --tar app.tar --name app`,
		Args:              atMostOne("one name or reference"),
		ValidArgsFunction: d.completeImages,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.reference = args[0]
			}
			return runImagePull(c.Context(), o, d)
		},
	}
	c.Flags().StringVar(&o.tar, "tar", "", "take the container image from this `file`: what docker save wrote, or an OCI layout")
	c.Flags().StringVar(&o.name, "name", "", "what to call a container image (default: made of the reference)")
	c.Flags().StringVar(&o.kernel, "kernel-ref", "", "the `kernel` that a container image starts with unless told otherwise")
	c.Flags().StringVar(&o.platform, "platform", "", "`os/architecture` of a container image (default: the host's)")
	c.Flags().BoolVar(&o.plainHTTP, "plain-http", false, "the registry may be asked without TLS; one on this host always may")
	c.Flags().StringVar(&o.maxSize, "max-size", "", "how much a container image may unpack to, as a `size` (default 32G)")
	completeFlag(c, "kernel-ref", d.completeKernels)
	addJSON(c, &o.json)
	return c
}

func runImagePull(ctx context.Context, o imagePullOptions, d *deps) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	image, err := d.pull(ctx, req, o.json)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}

// request tells a catalog's name from a reference.
func (o imagePullOptions) request() (api.PullImage, error) {
	max, err := parseSize("max-size", o.maxSize, 1)
	if err != nil {
		return api.PullImage{}, err
	}
	req := api.PullImage{Name: o.name, Reference: o.reference, Kernel: o.kernel, Platform: o.platform, PlainHTTP: o.plainHTTP, MaxMiB: max}
	if o.tar != "" {
		if req.Archive, err = filepath.Abs(o.tar); err != nil {
			return api.PullImage{}, fmt.Errorf("cannot find %s: %w", o.tar, err)
		}
		return req, nil
	}
	switch {
	case o.reference == "":
		return api.PullImage{}, bad("`banger image catalog` lists names; a reference is like docker.io/library/alpine:3.20", "image pull needs a name, a reference or --tar")
	case strings.ContainsAny(o.reference, "/:@"):
		return req, nil
	case o.name != "":
		return api.PullImage{}, bad(fmt.Sprintf("an image of a registry is written like docker.io/library/%s:latest", o.reference), "an image of a catalog keeps its name: --name is for container images")
	}
	req.Name, req.Reference = o.reference, ""
	return req, nil
}

// pull gets an image and shows how it comes along.
func (d *deps) pull(ctx context.Context, req api.PullImage, asJSON bool) (api.Image, error) {
	progress := d.progress(asJSON)
	defer progress.Done()
	return d.client.PullImage(ctx, req, progress.Step)
}
