package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/image/oci"
)

// renewable says whether an image can be had again: from a catalog or from a
// registry.
func (i Image) renewable() bool {
	return slices.Contains([]string{SourceCatalog, SourceBundle}, i.Source) || i.Source == SourceOCI && !i.FromFile
}

// Prunable gives the images that can go: managed ones that can be had again, but
// those that keep says yes to. Broken ones are for a person to look at.
func (s *Store) Prunable(keep func(name string) bool) ([]Image, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i Image) bool {
		return !i.Local || !i.Managed || !i.renewable() || keep(i.Name) || s.renamed(i)
	}), nil
}

// renamed says whether the image has a name that neither a catalog knows it by
// nor its reference gives: somebody wants it by that name.
func (s *Store) renamed(i Image) bool {
	_, ok := s.find(i.Name)
	if i.Source == SourceOCI && !ok {
		ref, err := oci.Parse(i.Reference)
		return err != nil || ref.ImageName() != i.Name
	}
	return i.Source == SourceCatalog && !ok
}

// layerDir is where the layers of container images are kept.
func (s *Store) layerDir() string { return filepath.Join(s.Cache, "oci") }

// useLayers keeps the layers that are kept from being pruned until the file is
// closed.
func (s *Store) useLayers() (*os.File, error) {
	return s.lockLayers(unix.LOCK_SH)
}

func (s *Store) lockLayers(how int) (*os.File, error) {
	if err := os.MkdirAll(s.layerDir(), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the cache of layers: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(s.layerDir(), ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the cache of layers: %w", err)
	}
	if err := flock(file, how); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot lock the cache of layers: %w", err)
	}
	return file, nil
}

// Layers is how many bytes of the host's disk the layers take that are kept of
// container images, unless a pull is using them.
func (s *Store) Layers() (int64, error) { return s.eachLayer(func(string) error { return nil }) }

// PruneLayers deletes those layers and gives what they took.
func (s *Store) PruneLayers() (int64, error) { return s.eachLayer(os.Remove) }

// eachLayer does something with the file of each layer, while no pull uses any,
// and gives what they took of the disk.
func (s *Store) eachLayer(do func(path string) error) (int64, error) {
	lock, err := s.lockLayers(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	files, err := filepath.Glob(filepath.Join(s.layerDir(), "sha256", "*"))
	if err != nil {
		return 0, err
	}
	var took int64
	for _, path := range files {
		info, err := os.Lstat(path)
		if err == nil {
			err = do(path)
		}
		if err != nil {
			return took, fmt.Errorf("cannot prune the cache of layers: %w", err)
		}
		took += info.Sys().(*syscall.Stat_t).Blocks * 512
	}
	return took, nil
}

// Freed is how many bytes of the host's disk go with images that are all
// deleted: a file of several names counts when all of them are among these.
func Freed(images []Image) int64 {
	links := map[uint64]uint64{}
	var freed int64
	for _, i := range images {
		freed += i.shareOf(links)
	}
	return freed
}

// shareOf gives what the image takes when its last link is counted.
func (i Image) shareOf(links map[uint64]uint64) int64 {
	info, err := os.Stat(i.Rootfs)
	if err != nil {
		return 0
	}
	stat := info.Sys().(*syscall.Stat_t)
	links[stat.Ino]++
	if links[stat.Ino] < stat.Nlink {
		return 0
	}
	return i.Used
}
