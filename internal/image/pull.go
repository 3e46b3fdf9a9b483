package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/image/oci"
	"github.com/banger-vm/banger/internal/progress"
)

// PullSteps are the steps of a pull from a registry, in their order; the first
// layers are unpacked while the last ones are on their way.
var PullSteps = []string{oci.StepResolve, StepSpace, oci.StepDownload, oci.StepUnpack, StepKeep}

// Pull gets a container image and makes an image of it, which the store keeps
// as req.Name, or by a name made of the reference. Pulling again what is there
// already, with the same digest, gives what is there. What fails leaves nothing
// but its downloads; what a pull leaves that is killed, the next removes.
// Errors carry an *api.Error: bad-request, exists, not-found, no-space,
// unauthorized, unreachable or untrusted.
func (s *Store) Pull(ctx context.Context, req api.PullImage, report progress.Func) (Image, error) {
	p := &pull{store: s, req: req, report: oneAtATime(report)}
	defer p.close()
	if err := p.check(ctx); err != nil {
		return Image{}, err
	}
	if err := p.resolve(ctx); err != nil {
		return Image{}, err
	}
	unlock, err := s.lock(ctx, p.name, report)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	image, err := p.existing()
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err
	}
	if err := p.make(ctx); err != nil {
		return Image{}, fmt.Errorf("cannot pull image %s: %w", p.name, err)
	}
	return s.local(p.name)
}

// pullEntry gets the image of a catalog's entry. The caller holds its lock.
func (s *Store) pullEntry(ctx context.Context, e catalog.Entry, report progress.Func) (err error) {
	p := &pull{store: s, name: e.Name, req: api.PullImage{Kernel: e.Kernel}, report: report}
	defer p.close()
	if p.ref, err = oci.Parse(e.Reference); err != nil {
		return err
	}
	if err := p.resolve(ctx); err != nil {
		return err
	}
	return p.make(ctx)
}

// pullOnce gives the image that a reference has been pulled as, or pulls it.
func (s *Store) pullOnce(ctx context.Context, reference string, report progress.Func) (Image, error) {
	ref, err := oci.Parse(reference)
	if err != nil {
		return Image{}, err
	}
	names, err := s.localNames()
	if err != nil {
		return Image{}, err
	}
	for _, name := range names {
		image, err := s.local(name)
		if err == nil && image.Reference == ref.String() {
			return image, nil
		}
	}
	return s.Pull(ctx, api.PullImage{Reference: reference}, report)
}

// pull is one pull.
type pull struct {
	store   *Store
	req     api.PullImage
	report  progress.Func
	ref     oci.Reference // of a registry's image
	name    string
	archive *oci.Archive // nil: from a registry
	image   *oci.Image
	layers  *os.File // keeps the cached layers while they are used; nil: not from a registry
}

func (p *pull) close() {
	if p.archive != nil {
		p.archive.Close()
	}
	if p.layers != nil {
		p.layers.Close()
	}
}

func (p *pull) step(name string) { p.store.step(name, p.report) }

// atStep is for work that reports by itself.
func (p *pull) atStep(name string) {
	if p.store.AtStep != nil {
		p.store.AtStep(name)
	}
}

// maxLimit is the most that a pull can be allowed, in MiB: 1 TiB.
const maxLimit = 1 << 20

// limit is how many bytes the image may unpack to.
func (p *pull) limit() int64 {
	if p.req.MaxMiB > 0 {
		return p.req.MaxMiB << 20
	}
	return oci.DefaultLimit
}

// check refuses what can't be, before anything is asked for.
func (p *pull) check(ctx context.Context) (err error) {
	p.name = p.req.Name
	if p.req.Reference != "" || p.req.Archive == "" {
		if p.ref, err = oci.Parse(p.req.Reference); err != nil {
			return err
		}
		p.name = cmp.Or(p.name, p.ref.ImageName())
	}
	bad := func(hint, format string, args ...any) error {
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case p.name == "":
		return bad("`banger image pull --tar FILE --name NAME`", "an image from a file needs a name")
	case p.req.Archive != "" && !filepath.IsAbs(p.req.Archive):
		return bad("give the whole path, beginning with /", "%q is not an absolute path", p.req.Archive)
	case p.req.MaxMiB < 0 || p.req.MaxMiB > maxLimit:
		return bad(fmt.Sprintf("allow up to %d GiB", maxLimit>>10), "an image can't be allowed %d MiB", p.req.MaxMiB)
	}
	if err := p.store.checkName(ctx, p.name); err != nil {
		return err
	}
	image, err := p.store.local(p.name)
	if err == nil && image.Source != SourceOCI {
		return taken(p.name, "choose another name with --name")
	}
	return nil
}

// resolve finds out what the reference means now.
func (p *pull) resolve(ctx context.Context) (err error) {
	p.step(oci.StepResolve)
	if p.req.Archive != "" {
		if p.archive, err = oci.OpenArchive(p.req.Archive); err != nil {
			return err
		}
		p.image, err = p.archive.Resolve(p.req.Reference, p.req.Platform)
		return err
	}
	if p.layers, err = p.store.layerCache().Use(ctx); err != nil {
		return err
	}
	registry := &oci.Registry{Cache: oci.Cache{Dir: p.store.layerDir()}, PlainHTTP: p.req.PlainHTTP}
	p.image, err = registry.Resolve(ctx, p.ref, p.req.Platform, p.report)
	return err
}

// existing gives the image when it is here, fs.ErrNotExist when its name is
// free. An image is never replaced: the disks of its VMs lie over its file.
func (p *pull) existing() (Image, error) {
	image, err := p.store.local(p.name)
	if err != nil {
		return Image{}, err
	}
	if image.Source == SourceOCI && image.Digest == p.image.Digest {
		return image, nil
	}
	hint := fmt.Sprintf("it has digest %.19s…, this one %.19s…: choose another name with --name, or `banger image delete %s` first", image.Digest, p.image.Digest, p.name)
	if image.Reference != "" && image.Reference != p.image.Reference {
		hint = fmt.Sprintf("it is %s: choose another name with --name", image.Reference)
	}
	return Image{}, taken(p.name, hint)
}

// make lays the image down beside the store's images, and then among them.
func (p *pull) make(ctx context.Context) (err error) {
	p.step(StepSpace)
	if err := p.checkRoom(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(p.store.Dir, tempPrefix(p.name))
	if err != nil {
		return p.explain(fmt.Errorf("cannot make a directory for it: %w", err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	result := filepath.Join(dir, "image")
	if err := os.Mkdir(result, 0o755); err != nil {
		return fmt.Errorf("cannot make a directory for it: %w", err)
	}
	rootfs := filepath.Join(result, rootfsFile)
	if err := p.layDown(ctx, rootfs); err != nil {
		return p.explain(err)
	}
	p.step(StepKeep)
	if err := makeDurable(rootfs); err != nil {
		return p.explain(fmt.Errorf("cannot keep the filesystem: %w", err))
	}
	if err := p.store.publish(ctx, result, p.record()); err != nil {
		return p.explain(err)
	}
	return nil
}

// checkRoom finds out before the work what would stop it at the end: a
// filesystem is hardly smaller than its layers, compressed.
func (p *pull) checkRoom() error {
	if err := p.store.checkRoom(p.name, p.image.Size()); err != nil {
		return err
	}
	if err := os.MkdirAll(p.store.Cache, 0o700); err != nil {
		return fmt.Errorf("cannot make the cache: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(p.store.Cache, &fs); err != nil {
		return fmt.Errorf("cannot look for free disk space: %w", err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < p.image.Missing {
		return &api.Error{
			Kind:    api.KindNoSpace,
			Message: fmt.Sprintf("%d MiB of layers are to be downloaded, and %s has %d MiB free", p.image.Missing>>20, p.store.Cache, free>>20),
			Hint:    "free some space, or set XDG_CACHE_HOME to a larger disk",
		}
	}
	return nil
}

// layDown makes the filesystem.
func (p *pull) layDown(ctx context.Context, rootfs string) (err error) {
	w, err := ext4.Create(rootfs, ext4.WriterOptions{Label: label(p.name), MaxBytes: p.limit(), MaxEntries: oci.EntryLimit(p.limit())})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	if err := p.image.Unpack(ctx, ext4Tree{w}, p.limit(), p.atStep, p.report); err != nil {
		return err
	}
	return w.Close()
}

// explain gives an error its kind that has none yet.
func (p *pull) explain(err error) error {
	var told *api.Error
	var limit *ext4.LimitError
	switch {
	case errors.As(err, &told):
		return err
	case errors.As(err, &limit):
		return &api.Error{Kind: api.KindBadRequest, Message: err.Error(), Hint: "if you trust it, allow more with --max-size"}
	case errors.Is(err, ext4.ErrXattr), errors.Is(err, ext4.ErrTooManyLinks), errors.Is(err, ext4.ErrName), errors.Is(err, ext4.ErrNameTooLong), errors.Is(err, ext4.ErrAttr):
		return &api.Error{Kind: api.KindUntrusted, Message: err.Error(), Hint: "ext4 can't hold such a file; nothing of the image was kept"}
	}
	return explainSpace(p.store.Dir, err)
}

func (p *pull) record() record {
	detail := "container image"
	if p.image.Reference != "" {
		detail = p.image.Reference
	}
	return record{
		Name: p.name, Source: SourceOCI, Kernel: p.req.Kernel, MaxDisk: ext4.MaxDisk, Created: time.Now().UTC(), Detail: detail,
		Reference: p.image.Reference, FromFile: p.archive != nil, Digest: p.image.Digest, Platform: p.image.Platform, Config: Config(p.image.Config),
	}
}

// ext4Tree is where an image is laid down.
type ext4Tree struct{ w *ext4.Writer }

func (f ext4Tree) Mkdir(path string, a oci.Attr) error { return f.w.Mkdir(path, ext4.Attr(a)) }
func (f ext4Tree) File(path string, a oci.Attr, content io.Reader, size int64) error {
	return f.w.File(path, ext4.Attr(a), content, size)
}
func (f ext4Tree) Symlink(path, target string, a oci.Attr) error {
	return f.w.Symlink(path, target, ext4.Attr(a))
}
func (f ext4Tree) Node(path string, a oci.Attr) error { return f.w.Node(path, ext4.Attr(a)) }
func (f ext4Tree) Link(old, path string) error        { return f.w.Link(old, path) }
func (f ext4Tree) Remove(path string) error           { return f.w.Remove(path) }
