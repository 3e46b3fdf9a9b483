package vm

import (
	"context"
	"fmt"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/credential"
	"github.com/banger-vm/banger/internal/disk"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/progress"
)

// Commit makes an image of a VM that does not run. The VM stays as it is.
func (m *Manager) Commit(ctx context.Context, nameOrID, name string, report progress.Func) (image.Image, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return image.Image{}, err
	}
	end, err := v.begin(ctx)
	if err != nil {
		return image.Image{}, err
	}
	defer end()
	rec := v.record()
	if err := require(rec, "commit", api.StateCreated, api.StateStopped, api.StateFailed); err != nil {
		return image.Image{}, err
	}
	if err := v.checkBase(); err != nil {
		return image.Image{}, err
	}
	base, err := m.Images.Ensure(ctx, rec.Spec.Image, report)
	if err != nil {
		return image.Image{}, fmt.Errorf("cannot commit VM %s: %w", rec.Name, err)
	}
	lock, err := disk.Lock(v.disk()) // nobody runs on it meanwhile
	if err != nil {
		return image.Image{}, err
	}
	defer lock.Close()
	return m.Images.Commit(ctx, image.Commit{
		Name: name, Of: rec.Name, Base: base, Kernel: rec.Spec.Kernel, UID: rec.Lease.UID,
		Secrets: credentialPaths(m.Credentials),
		Merge:   func(ctx context.Context, path string) error { return v.mergeDisk(ctx, base, path) },
	}, report)
}

// mergeDisk writes all of the VM's disk into a new file.
func (v *machine) mergeDisk(ctx context.Context, base image.Image, path string) error {
	rec := v.record()
	spec := disk.Spec{Path: v.disk(), Virtual: rec.Spec.DiskMiB << 20, Base: base.Size}
	if rec.Whole {
		_, err := disk.Copy(ctx, disk.Spec{Path: path, Virtual: spec.Virtual, UID: 0}, v.disk())
		return err
	}
	return disk.Merge(ctx, spec, rec.Rootfs, path)
}

// credentialPaths are where guests have the user's credentials: links to what is
// in their memory only, or files of their own.
func credentialPaths(files []credential.File) []string {
	var paths []string
	for _, f := range files {
		paths = append(paths, f.Guest)
	}
	return paths
}
