package daemon

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/image"
)

func (d *Daemon) getImages(w http.ResponseWriter, _ *http.Request) error {
	all, err := d.Images.List()
	if err != nil {
		return err
	}
	list := make([]api.Image, 0, len(all))
	for _, i := range all {
		list = append(list, i.API())
	}
	return answer(w, list)
}

func (d *Daemon) getImage(w http.ResponseWriter, r *http.Request) error {
	i, err := d.Images.Get(r.Context(), r.PathValue("image"))
	if err != nil {
		return err
	}
	return answer(w, i.API())
}

func (d *Daemon) postImages(w http.ResponseWriter, r *http.Request) error {
	var req api.RegisterImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	if err := d.checkKernel(image.Image{Name: req.Name, Kernel: req.Kernel}); err != nil {
		return err
	}
	i, err := d.Images.Register(r.Context(), req.Name, req.Rootfs, req.Kernel)
	if err != nil {
		return err
	}
	return answer(w, i.API())
}

func (d *Daemon) postTag(w http.ResponseWriter, r *http.Request) error {
	var req api.TagImage
	if err := read(w, r, &req); err != nil {
		return err
	}
	i, err := d.Images.Tag(r.Context(), r.PathValue("image"), req.Name)
	if err != nil {
		return err
	}
	return answer(w, i.API())
}

// deleteImage refuses while a VM's disk lies over the image: it would be lost.
func (d *Daemon) deleteImage(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("image")
	if users := d.VMs.UsesImage(name); len(users) > 0 {
		return &api.Error{
			Kind:    api.KindWrongState,
			Message: fmt.Sprintf("cannot delete image %s: the disks of %s depend on it", name, strings.Join(users, ", ")),
			Hint:    "banger vm delete " + strings.Join(users, " "),
		}
	}
	if err := d.Images.Delete(r.Context(), name); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

// finishImage ends an operation with the image that it made, or its error.
func (d *Daemon) finishImage(o *op.Op, made image.Image, err error) {
	if err != nil {
		d.fail(o, err)
		return
	}
	shown := made.API()
	o.Result(api.Result{Image: &shown})
}
