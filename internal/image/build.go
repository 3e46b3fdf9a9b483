package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/image/ext4"
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

// Ensure gives an image, building it first when only the catalog has it. Two
// calls at once, of one process or of two, share one build. A build that fails
// leaves nothing but its downloads; what one leaves that is killed, the next
// removes. Errors carry an *api.Error: not-found, no-space, unreachable,
// untrusted or host.
func (s *Store) Ensure(ctx context.Context, name string, report progress.Func) (Image, error) {
	image, err := s.Get(name)
	if err != nil || image.Local {
		return image, err
	}
	entry, _ := s.find(name)
	lock, err := s.lockFile(ctx, name, report)
	if err != nil {
		return Image{}, err
	}
	defer lock.Close()
	image, err = s.local(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err // built while we waited
	}
	if err := s.build(ctx, entry, lock, oneAtATime(report)); err != nil {
		return Image{}, fmt.Errorf("cannot build image %s: %w", name, err)
	}
	return s.local(name)
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
	return b.keep(archives)
}

func (b *build) step(name string) {
	b.report(progress.Event{Step: name})
	if b.store.AtStep != nil {
		b.store.AtStep(name)
	}
}

// checkHost finds out before the work what would stop it at the end.
func (b *build) checkHost() error {
	if os.Geteuid() != 0 {
		return &api.Error{
			Kind:    api.KindHost,
			Message: "building an image needs root",
			Hint:    "run bangerd as root, for instance `sudo banger …`",
		}
	}
	return b.checkSpace()
}

func (b *build) checkSpace() error {
	var fs unix.Statfs_t
	if err := unix.Statfs(b.store.Dir, &fs); err != nil {
		return fmt.Errorf("cannot look for free disk space: %w", err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free >= b.entry.BuildBytes {
		return nil
	}
	return &api.Error{
		Kind: api.KindNoSpace,
		Message: fmt.Sprintf("image %s needs %d MiB of disk space to be built, and %s has %d MiB free",
			b.entry.Name, b.entry.BuildBytes>>20, b.store.Dir, free>>20),
		Hint: "free some space, `banger vm prune` may help, or set XDG_DATA_HOME to a larger disk",
	}
}

// fill makes the tree. The tools are fetched while packages are installed.
func (b *build) fill(ctx context.Context) ([]debian.Source, error) {
	b.step(StepOpen)
	opts := b.store.Debian
	opts.Cache = filepath.Join(b.store.Cache, "debian")
	archive, err := debian.Open(ctx, opts, b.report, b.entry.Suites...)
	if err != nil {
		return nil, err
	}
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
func (b *build) keep(archives []debian.Source) error {
	b.step(StepKeep)
	if err := makeDurable(b.rootfs()); err != nil {
		return fmt.Errorf("cannot keep the filesystem: %w", err)
	}
	err := atomicfile.WriteJSON(filepath.Join(b.result(), recordFile), record{
		Name: b.entry.Name, Source: SourceCatalog, Kernel: b.entry.Kernel, MaxDisk: ext4.MaxDisk,
		Created: time.Now().UTC(), Detail: b.entry.Detail, Archives: archives,
	})
	if err != nil {
		return err
	}
	if err := os.Rename(b.result(), filepath.Join(b.store.Dir, b.entry.Name)); err != nil {
		return fmt.Errorf("cannot keep the image: %w", err)
	}
	return atomicfile.SyncDir(b.store.Dir)
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
