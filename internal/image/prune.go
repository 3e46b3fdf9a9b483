package image

import (
	"os"
	"slices"
	"syscall"
)

// renewable are the sources that an image can be had from again.
var renewable = []string{SourceCatalog, SourceBundle}

// Prunable gives the images that can go: managed ones that can be had again, but
// those that keep says yes to. Broken ones are for a person to look at.
func (s *Store) Prunable(keep func(name string) bool) ([]Image, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(i Image) bool {
		return !i.Local || !i.Managed || !slices.Contains(renewable, i.Source) || keep(i.Name) || s.renamed(i)
	}), nil
}

// renamed says whether the image has a name that no catalog knows it by.
func (s *Store) renamed(i Image) bool {
	_, ok := s.find(i.Name)
	return i.Source == SourceCatalog && !ok
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
