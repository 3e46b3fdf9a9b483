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
