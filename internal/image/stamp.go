package image

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// stamp is what a file that is not the store's own looked like when it became
// an image. The disks of VMs hold only what differs from it: over another file
// they are garbage.
type stamp struct {
	Size     int64     `json:"size_bytes"`
	Modified time.Time `json:"modified"`
}

func stampOf(path string) (stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}, fmt.Errorf("cannot look at the image's file: %w", err)
	}
	return stamp{Size: info.Size(), Modified: info.ModTime().UTC()}, nil
}

// check says whether the file is still the same; a nil stamp knows nothing.
func (s *stamp) check(path string) error {
	if s == nil {
		return nil
	}
	now, err := stampOf(path)
	if err != nil {
		return err
	}
	if now.Size != s.Size || !now.Modified.Equal(s.Modified) {
		return errors.New(path + " was changed after it was registered, on " + now.Modified.Format(time.DateTime) + " UTC")
	}
	return nil
}
