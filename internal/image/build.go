package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/image/oci"
	"github.com/banger-vm/banger/internal/progress"
)

// The steps of a build beside those of package debian, as progress and AtStep
// name them, in their order.
const (
	StepWait       = "waiting for another build of the image"
	StepSpace      = "checking disk space"
	StepOpen       = "reading package lists"
	StepProvision  = "provisioning"
	StepTools      = "installing tools"
	StepFilesystem = "making the filesystem"
	StepKeep       = "keeping the image"
)

// BuildSteps gives the names of all steps of a build of a Debian image, in their
// order; a build that waits for another has StepWait before them.
func BuildSteps() []string {
	return slices.Concat([]string{StepSpace, StepOpen}, debian.Steps(), []string{StepProvision, StepTools, StepFilesystem, StepKeep})
}

// Ensure gives an image, building or fetching it first when only a catalog has
// it, or pulling it when the name is a reference to a registry. Two calls at
// once, of one process or of two, share the work. What fails
// leaves nothing but its downloads; what one leaves that is killed, the next
// removes. Errors carry an *api.Error: not-found, no-space, unreachable,
// untrusted or host.
func (s *Store) Ensure(ctx context.Context, name string, report progress.Func) (Image, error) {
	if oci.IsReference(name) {
		return s.pullOnce(ctx, name, report)
	}
	image, err := s.local(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err
	}
	entry, err := s.entry(ctx, name)
	if err != nil {
		return Image{}, err
	}
	lock, err := s.lockFile(ctx, name, report)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	image, err = s.local(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err // made while we waited
	}
	if err := s.make(ctx, entry, lock, oneAtATime(report)); err != nil {
		return Image{}, err
	}
	return s.local(name)
}

// make gets the image of a catalog's entry in the way that its type names.
func (s *Store) make(ctx context.Context, entry catalog.Entry, lock *os.File, report progress.Func) error {
	var err error
	switch entry.Type {
	case catalog.TypeBundle:
		err = s.fetch(ctx, entry, report)
	case catalog.TypeOCI:
		err = s.pullEntry(ctx, entry, report)
	default:
		err = s.build(ctx, entry, lock, report)
	}
	if err != nil {
		return fmt.Errorf("cannot get image %s: %w", entry.Name, err)
	}
	return nil
}

// oneAtATime keeps progress.Func's promise where two goroutines work.
func oneAtATime(report progress.Func) progress.Func {
	var mu sync.Mutex
	return func(e progress.Event) {
		mu.Lock()
		defer mu.Unlock()
		report(e)
	}
}

// build is one build of a catalog entry.
type build struct {
	store  *Store
	entry  catalog.Entry
	lock   *os.File
	report progress.Func
	dir    string // everything of the build is below it
}

func (b *build) tree() string   { return filepath.Join(b.dir, "tree") }
func (b *build) result() string { return filepath.Join(b.dir, "image") }
func (b *build) rootfs() string { return filepath.Join(b.result(), rootfsFile) }

func (s *Store) build(ctx context.Context, entry catalog.Entry, lock *os.File, report progress.Func) (err error) {
	b := &build{store: s, entry: entry, lock: lock, report: report}
	b.step(StepSpace)
	if err := b.checkHost(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(s.Dir, tempPrefix(entry.Name)); err != nil {
		return fmt.Errorf("cannot make a directory for the build: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for _, dir := range []string{b.tree(), b.result()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("cannot make a directory for the build: %w", err)
		}
	}
	archives, err := b.fill(ctx)
	if err != nil {
		return err
	}
	if err := b.makeFilesystem(ctx); err != nil {
		return err
	}
	return b.keep(ctx, archives)
}

func (b *build) step(name string) { b.store.step(name, b.report) }

// checkHost finds out before the work what would stop it at the end.
func (b *build) checkHost() error {
	if os.Geteuid() != 0 {
		return &api.Error{
			Kind:    api.KindHost,
			Message: "building an image needs root",
			Hint:    "run bangerd as root, for instance `sudo banger …`",
		}
	}
	return b.store.checkRoom(b.entry.Name, b.entry.BuildBytes)
}

// fill makes the tree. The tools are fetched while packages are installed.
func (b *build) fill(ctx context.Context) ([]debian.Source, error) {
	b.step(StepOpen)
	opts := b.store.Debian
	opts.Cache = b.store.packageDir()
	archive, err := debian.Open(ctx, opts, b.report, b.entry.Suites...)
	if err != nil {
		return nil, err
	}
	defer archive.Close()
	tools := make([]fetchedTool, len(b.entry.Tools))
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for i, tool := range b.entry.Tools {
			tools[i] = fetchTool(groupCtx, b.dir, tool)
		}
		return nil
	})
	group.Go(func() error {
		return debian.Bootstrap(groupCtx, archive, debian.Spec{
			Dir:      b.tree(),
			Packages: b.entry.Packages,
			Hold:     []*os.File{b.lock},
			AtStep:   b.store.AtStep,
		}, b.report)
	})
	if err := group.Wait(); err != nil {
		return nil, err
	}
	b.step(StepProvision)
	if err := Provision(b.tree()); err != nil {
		return nil, err
	}
	b.step(StepTools)
	return archive.Sources(), b.installTools(tools)
}

// makeFilesystem turns the tree into the image's file.
func (b *build) makeFilesystem(ctx context.Context) error {
	b.step(StepFilesystem)
	size, err := ext4.SizeFor(b.tree())
	if err != nil {
		return err
	}
	builder := b.store.Builder
	if builder == nil {
		builder = ext4.Mke2fs{}
	}
	return builder.Build(ctx, b.tree(), b.rootfs(), ext4.Options{Size: size, Label: label(b.entry.Name)})
}

// label is what of a name fits into a superblock.
func label(name string) string { return name[:min(len(name), 16)] }

// keep makes the image durable and then visible, in this order.
func (b *build) keep(ctx context.Context, archives []debian.Source) error {
	b.step(StepKeep)
	if err := makeDurable(b.rootfs()); err != nil {
		return fmt.Errorf("cannot keep the filesystem: %w", err)
	}
	return b.store.publish(ctx, b.result(), record{
		Name: b.entry.Name, Source: SourceCatalog, Kernel: b.entry.Kernel, MaxDisk: ext4.MaxDisk,
		Created: time.Now().UTC(), Detail: b.entry.Detail, Archives: archives,
	})
}

// publish makes an image of a directory that holds its filesystem, durable
// already: the record is written, and then all of it shows at once. For a client
// who is gone it does not: nobody would know of the image.
func (s *Store) publish(ctx context.Context, dir string, r record) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := atomicfile.WriteJSON(filepath.Join(dir, recordFile), r); err != nil {
		return err
	}
	if err := os.Rename(dir, filepath.Join(s.Dir, r.Name)); err != nil {
		return fmt.Errorf("cannot keep the image: %w", err)
	}
	return atomicfile.SyncDir(s.Dir)
}

// makeDurable syncs a file and takes the right to write to it away.
func makeDurable(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Chmod(0o444); err != nil {
		return err
	}
	return file.Sync()
}
