package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/image/bundle"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// The steps of an export and of a publication, in their order.
const (
	StepPack    = "packing the image"
	StepCatalog = "adding it to the catalog"
)

// Export writes a local image as a bundle to file, whole or not at all, and
// gives its entry for a catalog. The entry's URL is the file's name.
func (s *Store) Export(ctx context.Context, name, file string, report progress.Func) (catalog.Entry, error) {
	image, err := s.exportable(ctx, name)
	if err != nil {
		return catalog.Entry{}, err
	}
	temp, err := claim(hidden(file))
	if err != nil {
		return catalog.Entry{}, fmt.Errorf("cannot export image %s: %w", name, unwritable(filepath.Dir(file), err))
	}
	defer temp.discard()
	entry, err := s.pack(ctx, temp.File, image, report)
	if err != nil {
		return catalog.Entry{}, fmt.Errorf("cannot export image %s: %w", name, explainSpace(filepath.Dir(file), err))
	}
	entry.URL = filepath.Base(file)
	if err := temp.become(file); err != nil {
		return catalog.Entry{}, fmt.Errorf("cannot export image %s: %w", name, err)
	}
	return entry, nil
}

// Publish writes a local image as a bundle into folder and puts it into the
// catalog there, instead of an older one of the same name. A
// reader of the folder sees the old catalog or the new one, and the bundle of
// either while it reads. The entry's URL is the bundle's name in the folder.
func (s *Store) Publish(ctx context.Context, name, folder string, report progress.Func) (catalog.Entry, error) {
	image, err := s.exportable(ctx, name)
	if err != nil {
		return catalog.Entry{}, err
	}
	entry, err := s.publishTo(ctx, image, folder, report)
	if err != nil {
		return catalog.Entry{}, fmt.Errorf("cannot publish image %s: %w", name, explainSpace(folder, err))
	}
	return entry, nil
}

func (s *Store) publishTo(ctx context.Context, image Image, folder string, report progress.Func) (catalog.Entry, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return catalog.Entry{}, unwritable(folder, err)
	}
	// Held to the end, so that two publications don't undo each other.
	lock, err := claim(filepath.Join(folder, ".lock"))
	if err != nil {
		return catalog.Entry{}, unwritable(folder, err)
	}
	defer lock.Close()
	temp, err := claim(filepath.Join(folder, ".unfinished"))
	if err != nil {
		return catalog.Entry{}, err
	}
	defer temp.discard()
	file, err := readCatalog(folder)
	if err != nil {
		return catalog.Entry{}, err
	}
	entry, err := s.pack(ctx, temp.File, image, report)
	if err != nil {
		return catalog.Entry{}, err
	}
	entry.URL = bundleName(entry)
	if err := temp.become(filepath.Join(folder, entry.URL)); err != nil {
		return catalog.Entry{}, err
	}
	s.step(StepCatalog, report)
	file = file.With(entry)
	text, err := json.MarshalIndent(file, "", "  ")
	if err != nil {
		return catalog.Entry{}, err
	}
	if err := atomicfile.Write(filepath.Join(folder, catalog.FileName), append(text, '\n'), 0o644); err != nil {
		return catalog.Entry{}, err
	}
	return entry, removeUnlisted(folder, entry.Name, file)
}

// unwritable says what to do about a folder of the user's in which nothing can be
// made, but for want of space.
func unwritable(folder string, err error) error {
	var cause *fs.PathError
	if !errors.As(err, &cause) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return err
	}
	return &api.Error{
		Kind: api.KindBadRequest, Message: fmt.Sprintf("nothing can be written to %s: %v", folder, cause.Err),
		Hint: "name a folder that exists and that bangerd may write to",
	}
}

// exportable is an image that is here and whole.
func (s *Store) exportable(ctx context.Context, name string) (Image, error) {
	image, err := s.Get(ctx, name)
	if err != nil {
		return Image{}, err
	}
	if !image.Local {
		return Image{}, notHere(name)
	}
	if err := usable(image.Rootfs); err != nil {
		return Image{}, broken(name, err)
	}
	return image, nil
}

func (s *Store) pack(ctx context.Context, to *os.File, image Image, report progress.Func) (catalog.Entry, error) {
	s.step(StepPack, report)
	m := bundle.Manifest{Name: image.Name, Detail: image.Detail, Kernel: image.Kernel, MaxDisk: image.MaxDisk, Created: image.Created}
	if !reflect.ValueOf(image.Config).IsZero() {
		config, err := json.Marshal(image.Config)
		if err != nil {
			return catalog.Entry{}, err
		}
		m.Config = config
	}
	told := func(done, total int64) { report(progress.Event{Step: StepPack, Done: done, Total: total}) }
	made, err := bundle.Create(ctx, to, m, image.Rootfs, told)
	if err != nil {
		return catalog.Entry{}, err
	}
	return catalog.Bundle(image.Name, image.Detail, image.Kernel, made.SHA256, made.Size), nil
}

// bundleName is a bundle's name in a folder. No image's name has an underscore
// in it, so that it tells whose the file is.
func bundleName(e catalog.Entry) string {
	return fmt.Sprintf("%s_%s_%s.tar.zst", e.Name, e.Arch, e.SHA256[:16])
}

var bundleForm = regexp.MustCompile(`^([a-z0-9.-]+)_[a-z0-9]+_[0-9a-f]{16}\.tar\.zst$`)

func readCatalog(folder string) (catalog.File, error) {
	path := filepath.Join(folder, catalog.FileName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return catalog.File{Format: catalog.Format}, nil
	}
	if err != nil {
		return catalog.File{}, err
	}
	file, err := catalog.Parse(text)
	if err != nil {
		return catalog.File{}, &api.Error{
			Kind: api.KindBadRequest, Message: fmt.Sprintf("cannot use %s: %v", path, err),
			Hint: "mend it or move it away; nothing was changed",
		}
	}
	return file, nil
}

// removeUnlisted removes the bundles of an image that the catalog does not name.
func removeUnlisted(folder, name string, file catalog.File) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, e := range entries {
		m := bundleForm.FindStringSubmatch(e.Name())
		listed := slices.ContainsFunc(file.Images, func(i catalog.Entry) bool { return i.URL == e.Name() })
		if m == nil || m[1] != name || listed {
			continue
		}
		if err := os.Remove(filepath.Join(folder, e.Name())); err != nil {
			return fmt.Errorf("cannot remove an older bundle: %w", err)
		}
	}
	return nil
}

// hidden is where a file is written before it is whole.
func hidden(file string) string {
	return filepath.Join(filepath.Dir(file), "."+strings.TrimPrefix(filepath.Base(file), ".")+".unfinished")
}

// claimed is a file that one process at a time writes, under a name that the
// next one finds again.
type claimed struct {
	*os.File
	path string
}

// claim opens the file at path, empty, for this process alone.
func claim(path string) (*claimed, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, err
	}
	if err := filelock.Try(file); err != nil {
		file.Close()
		if errors.Is(err, filelock.ErrHeld) {
			return nil, &api.Error{Kind: api.KindWrongState, Message: fmt.Sprintf("another export writes to %s", filepath.Dir(path)), Hint: "wait for its end"}
		}
		return nil, err
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, err
	}
	return &claimed{file, path}, nil
}

// become gives the file its name, durably.
func (c *claimed) become(path string) error {
	if err := c.Sync(); err != nil {
		return err
	}
	if err := os.Rename(c.path, path); err != nil {
		return err
	}
	c.path = ""
	return atomicfile.SyncDir(filepath.Dir(path))
}

// discard removes the file unless it has become another.
func (c *claimed) discard() {
	if c.path != "" {
		_ = os.Remove(c.path) // the next one empties it anyway
	}
	c.Close()
}
