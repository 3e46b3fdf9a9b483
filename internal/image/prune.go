package image

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/banger-vm/banger/internal/cachedir"
	"github.com/banger-vm/banger/internal/debian"
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

func (s *Store) layerCache() cachedir.Dir {
	return cachedir.Dir{Path: s.layerDir(), Files: []string{"sha256/*"}}
}

func (s *Store) packageCache() cachedir.Dir { return debian.CacheDir(s.packageDir()) }

// packageDir is where the packages are kept that images are built of.
func (s *Store) packageDir() string { return filepath.Join(s.Cache, "debian") }

// Layers is how many bytes of the host's disk the layers take that are kept of
// container images, unless a pull is using them.
func (s *Store) Layers() (int64, error) { return s.layerCache().Took() }

// PruneLayers deletes those layers and gives what they took.
func (s *Store) PruneLayers() (int64, error) { return s.layerCache().Empty() }

// Packages is how many bytes of the host's disk the packages take that are kept
// of builds, unless one is using them.
func (s *Store) Packages() (int64, error) { return s.packageCache().Took() }

// PrunePackages deletes those packages and gives what they took.
func (s *Store) PrunePackages() (int64, error) { return s.packageCache().Empty() }

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
