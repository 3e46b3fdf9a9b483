// Package disk makes and measures a VM's own disk: a sparse copy-on-write file
// beside the image's filesystem, which all VMs share and none changes. The two
// are put together in the guest (device-mapper's snapshot target), so that a
// VM costs the same to create whatever its image and its disk's size are, on
// any filesystem, without root and without loop devices.
//
// The file can hold every chunk of the virtual disk and its metadata, so the
// snapshot never runs full by itself. It starts with the snapshot's header;
// the rest is a hole.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/disk/dmsnapshot"
	"github.com/banger-vm/banger/internal/filelock"
)

// Spec is the disk that a VM shall have.
type Spec struct {
	Path    string // the copy-on-write file, which must not exist
	Virtual int64  // bytes of the disk that the guest sees
	Base    int64  // bytes of the image's filesystem
	UID     int    // who owns the file: the user of the VMM
}

// Create makes the copy-on-write file of spec, durably, with mode 0600. A disk
// smaller than its image is refused with an *api.Error.
func Create(spec Spec) error {
	if spec.Virtual < spec.Base {
		return tooSmall(spec)
	}
	file, err := os.OpenFile(spec.Path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("cannot create the VM's disk: %w", err)
	}
	if err := errors.Join(layOut(file, spec), file.Close()); err != nil {
		return errors.Join(explain(spec.Path, err), os.Remove(spec.Path))
	}
	return atomicfile.SyncDir(filepath.Dir(spec.Path))
}

func layOut(file *os.File, spec Spec) error {
	if err := file.Chown(spec.UID, -1); err != nil {
		return fmt.Errorf("cannot give the VM's disk to its user: %w", err)
	}
	if err := file.Truncate(dmsnapshot.DeviceSize(roundUp(spec.Virtual), dmsnapshot.ChunkSize)); err != nil {
		return fmt.Errorf("cannot size the VM's disk: %w", err)
	}
	header := dmsnapshot.Header{Valid: true, ChunkSectors: dmsnapshot.ChunkSize / dmsnapshot.SectorSize}
	if _, err := file.WriteAt(header.Bytes(), 0); err != nil {
		return fmt.Errorf("cannot write the VM's disk: %w", err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cannot write the VM's disk: %w", err)
	}
	return nil
}

// roundUp makes bytes whole sectors.
func roundUp(bytes int64) int64 {
	return (bytes + dmsnapshot.SectorSize - 1) / dmsnapshot.SectorSize * dmsnapshot.SectorSize
}

func tooSmall(spec Spec) error {
	return &api.Error{
		Kind:    api.KindBadRequest,
		Message: fmt.Sprintf("the disk is too small: the image alone is %s, and a disk of %s was asked for", human(spec.Base), human(spec.Virtual)),
		Hint:    fmt.Sprintf("ask for at least --disk %dM", (spec.Base+1<<20-1)>>20),
	}
}

// explain turns the host's own limits into words for people.
func explain(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return &api.Error{
			Kind:    api.KindNoSpace,
			Message: fmt.Sprintf("no space is left for %s", path),
			Hint:    "free some space, or delete VMs that are not needed: banger vm prune",
		}
	case errors.Is(err, unix.EFBIG):
		return &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("the disk is too large for the filesystem that holds %s", path),
			Hint:    "ask for a smaller --disk",
		}
	}
	return err
}

// ErrLocked is what Lock gives when another process runs on the disk.
var ErrLocked = errors.New("the VM's disk is in use by another process")

// Lock takes the exclusive lock (flock) of the copy-on-write file. The lock is
// held as long as any process has the file given open: a VMM that inherits it
// keeps it after the daemon's death. ErrLocked when it is taken.
func Lock(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the VM's disk: %w", err)
	}
	if err := filelock.Try(file); err != nil {
		_ = file.Close()
		if errors.Is(err, filelock.ErrHeld) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("cannot lock the VM's disk: %w", err)
	}
	return file, nil
}

// Used gives the bytes that the file takes on the host; 0 when there is none.
func Used(path string) (int64, error) {
	var st unix.Stat_t
	err := unix.Stat(path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot measure the VM's disk: %w", err)
	}
	return st.Blocks * 512, nil
}

// Space is how much room a filesystem has.
type Space struct {
	Free  int64 // bytes that this user may still write
	Total int64 // bytes
}

// SpaceAt measures the filesystem that dir is on.
func SpaceAt(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, fmt.Errorf("cannot measure the free space of %s: %w", dir, err)
	}
	free := st.Bavail
	if os.Geteuid() == 0 {
		free = st.Bfree
	}
	return Space{Free: int64(free) * st.Frsize, Total: int64(st.Blocks) * st.Frsize}, nil
}

// CheckSpace gives an *api.Error with the numbers when the filesystem that dir
// is on has fewer than need bytes free. What names what the space is for: "the
// new VM".
func CheckSpace(dir string, need int64, what string) error {
	space, err := SpaceAt(dir)
	if err != nil {
		return err
	}
	if space.Free >= need {
		return nil
	}
	return &api.Error{
		Kind:    api.KindNoSpace,
		Message: fmt.Sprintf("there is not enough space for %s: it needs %s, and %s has %s free", what, human(need), dir, human(space.Free)),
		Hint:    "free some space, or delete VMs that are not needed: banger vm prune",
	}
}

// human writes bytes for people: "1.5 GiB".
func human(bytes int64) string {
	const unit = 1024
	if bytes < unit {
		return fmt.Sprintf("%d B", bytes)
	}
	value, units := float64(bytes)/unit, "KMGTPE"
	for value >= unit {
		value, units = value/unit, units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}
