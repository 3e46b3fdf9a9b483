package daemon

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/progress"
)

// getCatalogs tells what each catalog has. Of a name that stands in several the
// later ones are hidden.
func (d *Daemon) getCatalogs(w http.ResponseWriter, r *http.Request) error {
	local, err := d.Images.List()
	if err != nil {
		return err
	}
	isLocal := func(name string) bool {
		return slices.ContainsFunc(local, func(i image.Image) bool { return i.Local && i.Name == name })
	}
	seen := map[string]bool{}
	list := []api.Catalog{}
	for _, l := range d.Images.Listings(r.Context()) {
		c := api.Catalog{Source: l.Source, Images: []api.CatalogImage{}}
		if l.Err != nil {
			told := kindOf(l.Err)
			c.Error, c.Hint = told.Message, told.Hint
		}
		for _, e := range l.Entries {
			c.Images = append(c.Images, api.CatalogImage{
				Name: e.Name, Type: e.Type, Detail: e.Detail, Kernel: e.Kernel, Arch: e.Arch, Size: e.Size,
				Local: isLocal(e.Name), Hidden: seen[e.Name],
			})
			seen[e.Name] = true
		}
		list = append(list, c)
	}
	return answer(w, list)
}

// postPull gets an image and the kernel that it wants.
func (d *Daemon) postPull(w http.ResponseWriter, r *http.Request) error {
	var req api.PullImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("image pull", "image", req.Name, "reference", req.Reference, "archive", req.Archive)
	pull := d.pull
	if req.Reference != "" || req.Archive != "" {
		pull = d.pullContainer
	}
	pulled, err := pull(ctx, req, o.Report)
	d.finishImage(o, pulled, err)
	return nil
}

// pull gets an image of a catalog.
func (d *Daemon) pull(ctx context.Context, req api.PullImage, report progress.Func) (image.Image, error) {
	if req.Kernel != "" || req.Platform != "" || req.PlainHTTP || req.MaxMiB != 0 {
		return image.Image{}, &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("%q is an image of a catalog: the catalog says what its kernel and its platform are", req.Name),
			Hint:    "an image of a registry is written like docker.io/library/alpine:3.20",
		}
	}
	wanted, err := d.Images.Get(ctx, req.Name)
	if err != nil {
		return image.Image{}, err
	}
	if err := d.checkKernel(wanted); err != nil {
		return image.Image{}, err
	}
	pulled, err := d.Images.Ensure(ctx, req.Name, report)
	if err != nil {
		return pulled, err
	}
	return d.withKernel(ctx, pulled, report)
}

// pullContainer gets a container image.
func (d *Daemon) pullContainer(ctx context.Context, req api.PullImage, report progress.Func) (image.Image, error) {
	if err := d.checkKernel(image.Image{Name: cmp.Or(req.Name, req.Reference), Kernel: req.Kernel}); err != nil {
		return image.Image{}, err
	}
	pulled, err := d.Images.Pull(ctx, req, report)
	if err != nil {
		return pulled, err
	}
	return d.withKernel(ctx, pulled, report)
}

// withKernel gets the kernel that an image wants.
func (d *Daemon) withKernel(ctx context.Context, pulled image.Image, report progress.Func) (image.Image, error) {
	if pulled.Kernel == "" {
		return pulled, nil
	}
	if err := d.checkKernel(pulled); err != nil {
		return image.Image{}, err
	}
	if _, err := d.Kernels.Ensure(ctx, pulled.Kernel, report); err != nil {
		return image.Image{}, fmt.Errorf("image %s is here, its kernel %s is not: %w", pulled.Name, pulled.Kernel, err)
	}
	return pulled, nil
}

// checkKernel refuses an image whose kernel nobody has.
func (d *Daemon) checkKernel(i image.Image) error {
	known, err := d.Kernels.List()
	if err != nil {
		return err
	}
	if i.Kernel == "" || slices.ContainsFunc(known, func(k kernel.Kernel) bool { return k.Name == i.Kernel }) {
		return nil
	}
	return &api.Error{
		Kind:    api.KindNotFound,
		Message: fmt.Sprintf("image %s wants the kernel %s, which is neither on this host nor in the catalog", i.Name, i.Kernel),
		Hint:    fmt.Sprintf("`banger kernel import --name %s …` makes it known", i.Kernel),
	}
}

// postExport writes an image as a bundle, or into a folder with a catalog.
func (d *Daemon) postExport(w http.ResponseWriter, r *http.Request) error {
	var req api.ExportImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	path, do := req.File, d.Images.Export
	if req.Folder != "" {
		path, do = req.Folder, d.Images.Publish
	}
	if !filepath.IsAbs(path) || req.File != "" && req.Folder != "" {
		return &api.Error{Kind: api.KindBadRequest, Message: "an export needs one absolute path, of a file or of a folder"}
	}
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("image export", "image", r.PathValue("image"), "to", path)
	e, err := do(ctx, r.PathValue("image"), path, o.Report)
	if err != nil {
		d.fail(o, err)
		return nil
	}
	o.Result(api.Result{Exported: exported(e, path, req.Folder != "")})
	return nil
}

func exported(e catalog.Entry, path string, inFolder bool) *api.Exported {
	if inFolder {
		path = filepath.Join(path, e.URL)
	}
	return &api.Exported{File: path, Entry: api.CatalogEntry{
		Name: e.Name, Type: e.Type, Detail: e.Detail, Kernel: e.Kernel, Arch: e.Arch, URL: e.URL, SHA256: e.SHA256, Size: e.Size,
	}}
}
