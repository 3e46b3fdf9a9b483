package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/progress"
)

// Pull gets the newest version of a kernel of the catalog; one that is the
// newest already is left as it is. VMs that run keep theirs until they are
// started again. Errors are those of Ensure, and bad-request for a kernel that
// was imported.
func (s *Store) Pull(ctx context.Context, name string, report progress.Func) (Kernel, error) {
	rec, err := s.load(name)
	if err == nil && rec.Source == SourceImported {
		return Kernel{}, &api.Error{
			Kind: api.KindBadRequest, Message: fmt.Sprintf("kernel %s was imported: there is nowhere to pull it from", name),
			Hint: fmt.Sprintf("`banger kernel delete %s`, then import the newer one", name),
		}
	}
	entry, err := s.entry(name)
	if err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("cannot make the kernel store: %w", err)
	}
	unlock, err := s.lock(ctx, name, report)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	rec, err = s.update(ctx, entry, report)
	if err != nil {
		return Kernel{}, explain(err)
	}
	return s.kernel(rec), nil
}

// update builds a kernel unless the newest is there.
func (s *Store) update(ctx context.Context, entry catalogEntry, report progress.Func) (record, error) {
	rec, err := s.load(entry.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return s.build(ctx, entry, report)
	}
	if err != nil {
		return record{}, err
	}
	s.step(stepFind, report)
	archive, pkg, err := s.find(ctx, entry, report)
	if err != nil {
		return record{}, err
	}
	if pkg.Version == rec.Version && pkg.Name == rec.Package {
		archive.Close()
		return rec, nil
	}
	return s.buildFrom(ctx, entry, archive, pkg, report)
}

// Show gives a kernel of the store or of the catalog.
func (s *Store) Show(name string) (Kernel, error) {
	rec, err := s.load(name)
	if err == nil {
		return s.kernel(rec), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, err
	}
	if _, err := s.entry(name); err != nil {
		return Kernel{}, err
	}
	return Kernel{Name: name, Source: SourceCatalog}, nil
}

// Delete removes a kernel's files. Whether a VM still needs it is for the
// caller to know. Errors carry an *api.Error of kind not-found.
func (s *Store) Delete(ctx context.Context, name string) error {
	k, err := s.Show(name)
	if err != nil {
		return err
	}
	if !k.Local {
		return &api.Error{
			Kind: api.KindNotFound, Message: fmt.Sprintf("kernel %s is not on this host", name),
			Hint: "it is in the catalog only; there is nothing to delete",
		}
	}
	unlock, err := s.lock(ctx, name, progress.Discard)
	if err != nil {
		return err
	}
	defer unlock()
	// Gone in one step; what a killed one leaves, the next build or import of
	// the name removes.
	trash := filepath.Join(s.Dir, "."+name+".build")
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("cannot delete kernel %s: %w", name, err)
	}
	if err := os.Rename(filepath.Join(s.Dir, name), trash); err != nil {
		return fmt.Errorf("cannot delete kernel %s: %w", name, err)
	}
	if err := errors.Join(os.RemoveAll(trash), atomicfile.SyncDir(s.Dir)); err != nil {
		return fmt.Errorf("cannot delete the files of kernel %s: %w", name, err)
	}
	return nil
}

// commit writes the record and puts the whole kernel in its place. An older one
// there takes the place of the build, in the same moment. For a client who is gone it
// does not: nobody would know of the kernel.
func (s *Store) commit(ctx context.Context, built string, rec record) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if err := atomicfile.WriteJSON(filepath.Join(built, recordFile), rec); err != nil {
		return err
	}
	final := filepath.Join(s.Dir, rec.Name)
	err := unix.Renameat2(unix.AT_FDCWD, built, unix.AT_FDCWD, final, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(built, final)
	}
	if err != nil {
		return fmt.Errorf("cannot keep the kernel: %w", err)
	}
	return atomicfile.SyncDir(s.Dir)
}
