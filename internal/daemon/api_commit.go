package daemon

import (
	"errors"
	"net/http"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/image"
)

// postCommit makes an image of a VM's disk.
func (d *Daemon) postCommit(w http.ResponseWriter, r *http.Request) error {
	var req api.CommitVM
	if err := read(w, r, &req); err != nil {
		return err
	}
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("image commit", "vm", r.PathValue("vm"), "image", req.Name)
	made, err := d.VMs.Commit(ctx, r.PathValue("vm"), req.Name, o.Report)
	d.finishImage(o, made, err)
	return nil
}

// postImagesPrune deletes the images that no VM uses and that can be had again,
// and the layers and packages that are kept, or only tells what would go.
func (d *Daemon) postImagesPrune(w http.ResponseWriter, r *http.Request) error {
	var req api.PruneImages
	if err := read(w, r, &req); err != nil {
		return err
	}
	prunable, err := d.Images.Prunable(func(name string) bool {
		return name == d.VMs.Defaults.Image || len(d.VMs.UsesImage(name)) > 0
	})
	if err != nil {
		return err
	}
	pruned := api.PrunedImages{Images: []api.Image{}}
	var errs []error
	for _, i := range prunable {
		if !req.DryRun {
			if err := d.Images.Delete(r.Context(), i.Name); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		pruned.Images = append(pruned.Images, i.API())
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	layers, packages := d.Images.PruneLayers, d.Images.PrunePackages
	if req.DryRun {
		layers, packages = d.Images.Layers, d.Images.Packages
	}
	if pruned.Layers, err = layers(); err != nil {
		return err
	}
	if pruned.Packages, err = packages(); err != nil {
		return err
	}
	pruned.Freed = image.Freed(prunable) + pruned.Layers + pruned.Packages
	return answer(w, pruned)
}
