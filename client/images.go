package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/banger-vm/banger/api"
)

// Images lists the local images and those of the catalog.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	var images []api.Image
	return images, c.call(ctx, http.MethodGet, "/v1/images", nil, &images)
}

// Image tells of one image.
func (c *Client) Image(ctx context.Context, name string) (api.Image, error) {
	var image api.Image
	return image, c.call(ctx, http.MethodGet, "/v1/images/"+url.PathEscape(name), nil, &image)
}

// RegisterImage gives a name to an ext4 file that is already on the host.
func (c *Client) RegisterImage(ctx context.Context, req api.RegisterImage) (api.Image, error) {
	var image api.Image
	return image, c.call(ctx, http.MethodPost, "/v1/images", req, &image)
}

// PullImage gets an image of a catalog and the kernel that it wants.
func (c *Client) PullImage(ctx context.Context, req api.PullImage, report Report) (api.Image, error) {
	result, err := c.operation(ctx, "/v1/images/pull", req, report)
	if err != nil || result.Image == nil {
		return api.Image{}, err
	}
	return *result.Image, nil
}

// Catalogs tells what images the catalogs have.
func (c *Client) Catalogs(ctx context.Context) ([]api.Catalog, error) {
	var catalogs []api.Catalog
	return catalogs, c.call(ctx, http.MethodGet, "/v1/catalogs", nil, &catalogs)
}

// ExportImage writes an image as a bundle.
func (c *Client) ExportImage(ctx context.Context, name string, req api.ExportImage, report Report) (api.Exported, error) {
	result, err := c.operation(ctx, "/v1/images/"+url.PathEscape(name)+"/export", req, report)
	if err != nil || result.Exported == nil {
		return api.Exported{}, err
	}
	return *result.Exported, nil
}

// CommitVM makes an image of a VM that does not run.
func (c *Client) CommitVM(ctx context.Context, vm, name string, report Report) (api.Image, error) {
	result, err := c.operation(ctx, vmPath(vm, "/commit"), api.CommitVM{Name: name}, report)
	if err != nil || result.Image == nil {
		return api.Image{}, err
	}
	return *result.Image, nil
}

// CheckImage tells whether a new image could be made: its name is free and its
// kernel known.
func (c *Client) CheckImage(ctx context.Context, req api.CheckImage) error {
	return c.call(ctx, http.MethodPost, "/v1/images/check", req, nil)
}

// ReceiveImage makes an image of a container image that is in a running VM.
func (c *Client) ReceiveImage(ctx context.Context, vm string, req api.ReceiveImage, report Report) (api.Image, error) {
	result, err := c.operation(ctx, vmPath(vm, "/image"), req, report)
	if err != nil || result.Image == nil {
		return api.Image{}, err
	}
	return *result.Image, nil
}

// PruneImages deletes the images that nothing needs.
func (c *Client) PruneImages(ctx context.Context, req api.PruneImages) (api.PrunedImages, error) {
	var pruned api.PrunedImages
	return pruned, c.call(ctx, http.MethodPost, "/v1/images/prune", req, &pruned)
}

// TagImage gives an image a second name.
func (c *Client) TagImage(ctx context.Context, name, second string) (api.Image, error) {
	var image api.Image
	return image, c.call(ctx, http.MethodPost, "/v1/images/"+url.PathEscape(name)+"/tag", api.TagImage{Name: second}, &image)
}

// DeleteImage deletes an image; the file of a registered one stays.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images/"+url.PathEscape(name), nil, nil)
}

// Kernels lists the local kernels and those of the catalog.
func (c *Client) Kernels(ctx context.Context) ([]api.Kernel, error) {
	var kernels []api.Kernel
	return kernels, c.call(ctx, http.MethodGet, "/v1/kernels", nil, &kernels)
}

// Kernel tells of one kernel.
func (c *Client) Kernel(ctx context.Context, name string) (api.Kernel, error) {
	var k api.Kernel
	return k, c.call(ctx, http.MethodGet, "/v1/kernels/"+url.PathEscape(name), nil, &k)
}

// PullKernel gets the newest version of a kernel of the catalog.
func (c *Client) PullKernel(ctx context.Context, name string, report Report) (api.Kernel, error) {
	return c.getKernel(ctx, "/v1/kernels/pull", api.PullKernel{Name: name}, report)
}

// ImportKernel takes a kernel that is on the host into the store.
func (c *Client) ImportKernel(ctx context.Context, req api.ImportKernel, report Report) (api.Kernel, error) {
	return c.getKernel(ctx, "/v1/kernels/import", req, report)
}

func (c *Client) getKernel(ctx context.Context, path string, req any, report Report) (api.Kernel, error) {
	result, err := c.operation(ctx, path, req, report)
	if err != nil || result.Kernel == nil {
		return api.Kernel{}, err
	}
	return *result.Kernel, nil
}

// DeleteKernel deletes a kernel's files.
func (c *Client) DeleteKernel(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/kernels/"+url.PathEscape(name), nil, nil)
}

// Doctor asks the daemon to look at the host.
func (c *Client) Doctor(ctx context.Context) (api.Doctor, error) {
	var d api.Doctor
	return d, c.call(ctx, http.MethodGet, "/v1/doctor", nil, &d)
}

// DoctorFix has the daemon mend what it can mend without harm.
func (c *Client) DoctorFix(ctx context.Context) (api.DoctorFix, error) {
	var f api.DoctorFix
	return f, c.call(ctx, http.MethodPost, "/v1/doctor/fix", nil, &f)
}
