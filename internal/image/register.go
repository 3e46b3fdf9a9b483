package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/image/ext4"
)

// Register names an ext4 file as an image. The file stays where it is, is
// never written to, and stays when the image is deleted. kernel may be empty.
// Errors carry an *api.Error: bad-request or exists.
func (s *Store) Register(ctx context.Context, name, rootfs, kernel string) (Image, error) {
	if err := s.checkRegistration(ctx, name, rootfs); err != nil {
		return Image{}, err
	}
	unlock, err := s.lock(ctx, name, nil)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	if err := s.checkFree(name); err != nil {
		return Image{}, err
	}
	file, err := stampOf(rootfs)
	if err != nil {
		return Image{}, err
	}
	r := record{Name: name, Source: SourceRegistered, Rootfs: rootfs, Kernel: kernel, Created: time.Now().UTC(), File: &file}
	if err := s.writeRecord(r); err != nil {
		return Image{}, err
	}
	return s.local(name)
}

// checkName refuses a name that no new image can have.
func (s *Store) checkName(ctx context.Context, name string) error {
	if !validName(name) {
		return &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("%q is no name for an image", name),
			Hint:    "use lower-case letters, digits, and - or . inside; at most 63 characters",
		}
	}
	// A catalog that can't be read is no reason to refuse.
	if _, ok, _ := s.findAnywhere(ctx, name); ok {
		return taken(name, "it is an image of a catalog; choose another name")
	}
	return nil
}

// checkFree refuses a name that an image of the store has. The caller holds the
// name's lock.
func (s *Store) checkFree(name string) error {
	if _, err := os.Lstat(filepath.Join(s.Dir, name)); err == nil {
		return taken(name, fmt.Sprintf("choose another name, or `banger image delete %s` first", name))
	}
	return nil
}

func (s *Store) checkRegistration(ctx context.Context, name, rootfs string) error {
	if err := s.checkName(ctx, name); err != nil {
		return err
	}
	bad := func(hint, format string, args ...any) error {
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	if !filepath.IsAbs(rootfs) || rootfs != filepath.Clean(rootfs) {
		return bad("give the whole path, beginning with /", "%q is not an absolute path", rootfs)
	}
	stat, err := os.Stat(rootfs)
	if err != nil {
		return bad("the file must exist and be readable by bangerd", "cannot use %s: %v", rootfs, errors.Unwrap(err))
	}
	if !stat.Mode().IsRegular() {
		return bad("give a file that holds an ext4 filesystem", "%s is not a regular file", rootfs)
	}
	info, err := ext4.Read(rootfs)
	if err != nil {
		return bad("make one with `mke2fs -t ext4 -d <directory> <file> <size>`", "cannot use %s: %v", rootfs, err)
	}
	if info.Dirty != "" {
		return bad(fmt.Sprintf("unmount it, then `e2fsck -f %s`", rootfs), "cannot use %s: %s", rootfs, info.Dirty)
	}
	return nil
}

func taken(name, hint string) error {
	return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("there is an image %s already", name), Hint: hint}
}

// writeRecord makes an image of a record alone, whole or not at all.
func (s *Store) writeRecord(r record) (err error) {
	temp, err := os.MkdirTemp(s.Dir, tempPrefix(r.Name))
	if err != nil {
		return fmt.Errorf("cannot register image %s: %w", r.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err := atomicfile.WriteJSON(filepath.Join(temp, recordFile), r); err != nil {
		return fmt.Errorf("cannot register image %s: %w", r.Name, err)
	}
	if err := os.Rename(temp, filepath.Join(s.Dir, r.Name)); err != nil {
		return fmt.Errorf("cannot register image %s: %w", r.Name, err)
	}
	return atomicfile.SyncDir(s.Dir)
}

// Delete removes an image; the file of a managed one goes with it. Whether a
// VM still needs it is for the caller to know. Errors carry an *api.Error of
// kind not-found.
func (s *Store) Delete(ctx context.Context, name string) error {
	if !validName(name) {
		return s.notFound(ctx, name)
	}
	unlock, err := s.lock(ctx, name, nil)
	if err != nil {
		return err
	}
	defer unlock()
	dir := filepath.Join(s.Dir, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if _, ok := s.find(name); ok {
			return &api.Error{
				Kind:    api.KindNotFound,
				Message: fmt.Sprintf("image %s is not on this host", name),
				Hint:    "it is in the catalog only; there is nothing to delete",
			}
		}
		return s.notFound(ctx, name)
	}
	// Gone in one step, also for who looks while the files are being removed.
	trash, err := os.MkdirTemp(s.Dir, tempPrefix(name))
	if err != nil {
		return fmt.Errorf("cannot delete image %s: %w", name, err)
	}
	if err := os.Rename(dir, filepath.Join(trash, "deleted")); err != nil {
		return fmt.Errorf("cannot delete image %s: %w", name, errors.Join(err, os.RemoveAll(trash)))
	}
	if err := errors.Join(os.RemoveAll(trash), atomicfile.SyncDir(s.Dir)); err != nil {
		return fmt.Errorf("cannot delete the files of image %s: %w", name, err)
	}
	return nil
}
