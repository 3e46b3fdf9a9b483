package daemon

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/progress"
)

func (d *Daemon) getKernels(w http.ResponseWriter, _ *http.Request) error {
	all, err := d.Kernels.List()
	if err != nil {
		return err
	}
	list := make([]api.Kernel, 0, len(all))
	for _, k := range all {
		list = append(list, kernelOf(k))
	}
	return answer(w, list)
}

func kernelOf(k kernel.Kernel) api.Kernel {
	return api.Kernel{
		Name: k.Name, Version: k.Version, Release: k.Release, Source: k.Source, Size: k.Size, Local: k.Local, Created: k.Created,
		WholeCopies: k.NoDeviceMapper, Vmlinux: k.Vmlinux, Modules: k.Modules,
	}
}

func (d *Daemon) getKernel(w http.ResponseWriter, r *http.Request) error {
	k, err := d.Kernels.Show(r.PathValue("kernel"))
	if err != nil {
		return err
	}
	return answer(w, kernelOf(k))
}

// getsKernel runs an operation that ends with a kernel.
func (d *Daemon) getsKernel(w http.ResponseWriter, r *http.Request, what, name string, do func(ctx context.Context, report progress.Func) (kernel.Kernel, error)) {
	ctx, o := op.Begin(r.Context(), w, d.Log)
	o.Log.Info("kernel "+what, "kernel", name)
	k, err := do(ctx, o.Report)
	if err != nil {
		d.fail(o, err)
		return
	}
	got := kernelOf(k)
	o.Result(api.Result{Kernel: &got})
}

func (d *Daemon) postKernelPull(w http.ResponseWriter, r *http.Request) error {
	var req api.PullKernel
	if err := read(w, r, &req); err != nil {
		return err
	}
	d.getsKernel(w, r, "pull", req.Name, func(ctx context.Context, report progress.Func) (kernel.Kernel, error) {
		return d.Kernels.Pull(ctx, req.Name, report)
	})
	return nil
}

func (d *Daemon) postKernelImport(w http.ResponseWriter, r *http.Request) error {
	var req api.ImportKernel
	if err := read(w, r, &req); err != nil {
		return err
	}
	d.getsKernel(w, r, "import", req.Name, func(ctx context.Context, report progress.Func) (kernel.Kernel, error) {
		return d.Kernels.Import(ctx, req.Name, kernel.Files{Vmlinux: req.Vmlinux, Modules: req.Modules, Initrd: req.Initrd}, report)
	})
	return nil
}

// deleteKernel refuses while a VM or an image is to start with the kernel: an
// imported one could not be had again.
func (d *Daemon) deleteKernel(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("kernel")
	if users := d.VMs.UsesKernel(name); len(users) > 0 {
		return &api.Error{
			Kind:    api.KindWrongState,
			Message: fmt.Sprintf("cannot delete kernel %s: %s start with it", name, strings.Join(users, ", ")),
			Hint:    "banger vm delete " + strings.Join(users, " "),
		}
	}
	if err := d.checkImagesOf(name); err != nil {
		return err
	}
	if err := d.Kernels.Delete(r.Context(), name); err != nil {
		return err
	}
	return answer(w, struct{}{})
}

func (d *Daemon) checkImagesOf(name string) error {
	k, err := d.Kernels.Show(name)
	if err != nil || k.Source != kernel.SourceImported {
		return err
	}
	images, err := d.Images.List()
	if err != nil {
		return err
	}
	for _, i := range images {
		if i.Local && i.Kernel == name {
			return &api.Error{
				Kind:    api.KindWrongState,
				Message: fmt.Sprintf("cannot delete kernel %s: image %s starts with it", name, i.Name),
				Hint:    "banger image delete " + i.Name,
			}
		}
	}
	return nil
}
