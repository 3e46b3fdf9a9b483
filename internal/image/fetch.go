package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/bundle"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/progress"
)

// StepFetch is the one long step of getting a bundle: it is verified, unpacked
// and written while it comes.
const StepFetch = "fetching the image"

// fetch gets the image of a bundle, straight into the store. The caller holds
// the image's lock.
func (s *Store) fetch(ctx context.Context, entry catalog.Entry, report progress.Func) (err error) {
	if !entry.Fits() {
		return &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("it is for %s processors, and this host has %s", entry.Arch, runtime.GOARCH),
			Hint:    "`banger image catalog` lists what there is",
		}
	}
	dir, err := os.MkdirTemp(s.Dir, tempPrefix(entry.Name))
	if err != nil {
		return fmt.Errorf("cannot make a directory for it: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	result := filepath.Join(dir, "image")
	if err := os.Mkdir(result, 0o755); err != nil {
		return fmt.Errorf("cannot make a directory for it: %w", err)
	}
	s.step(StepFetch, report)
	m, err := s.extract(ctx, entry, filepath.Join(result, rootfsFile), report)
	if err != nil {
		return explainSpace(s.Dir, err)
	}
	s.step(StepKeep, report)
	if err := makeDurable(filepath.Join(result, rootfsFile)); err != nil {
		return explainSpace(s.Dir, fmt.Errorf("cannot keep the filesystem: %w", err))
	}
	r, err := fetchedRecord(entry, m)
	if err != nil {
		return err
	}
	return s.publish(ctx, result, r)
}

func (s *Store) step(name string, report progress.Func) {
	report(progress.Event{Step: name})
	if s.AtStep != nil {
		s.AtStep(name)
	}
}

// extract fetches a bundle and writes its filesystem to path, which is one that
// a VM can start from when there is no error.
func (s *Store) extract(ctx context.Context, entry catalog.Entry, path string, report progress.Func) (bundle.Manifest, error) {
	// Whatever ends the extraction ends the transfer too.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packed, err := catalog.Open(ctx, entry.URL)
	if err != nil {
		return bundle.Manifest{}, err
	}
	defer packed.Close()
	room := func(m bundle.Manifest) error { return s.checkRoom(entry.Name, m.DataBytes) }
	told := func(n int64) { report(progress.Event{Step: StepFetch, Done: n, Total: entry.Size}) }
	m, err := bundle.Extract(ctx, packed, bundle.Want{SHA256: entry.SHA256, Size: entry.Size}, path, room, told)
	if err != nil {
		return bundle.Manifest{}, err
	}
	if err := usable(path); err != nil {
		return bundle.Manifest{}, &api.Error{Kind: api.KindUntrusted, Message: "the bundle is not right: " + err.Error(), Hint: "tell who keeps the catalog"}
	}
	return m, nil
}

// usable says why VMs can't start from the filesystem at path.
func usable(path string) error {
	info, err := ext4.Read(path)
	if err != nil {
		return err
	}
	if info.Dirty != "" {
		return errors.New(info.Dirty)
	}
	return nil
}

func fetchedRecord(entry catalog.Entry, m bundle.Manifest) (record, error) {
	r := record{
		Name: entry.Name, Source: SourceBundle, Kernel: entry.Kernel, MaxDisk: m.MaxDisk,
		Created: time.Now().UTC(), Detail: entry.Detail,
	}
	if r.Kernel == "" {
		r.Kernel = m.Kernel
	}
	if len(m.Config) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(m.Config, &r.Config); err != nil {
		return record{}, &api.Error{Kind: api.KindUntrusted, Message: "the bundle is not right: cannot read how its image runs", Hint: "tell who keeps the catalog"}
	}
	return r, nil
}

// checkRoom refuses what the store's disk has no room for.
func (s *Store) checkRoom(name string, need int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(s.Dir, &fs); err != nil {
		return fmt.Errorf("cannot look for free disk space: %w", err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free >= need {
		return nil
	}
	return &api.Error{
		Kind:    api.KindNoSpace,
		Message: fmt.Sprintf("image %s needs %d MiB of disk space, and %s has %d MiB free", name, need>>20, s.Dir, free>>20),
		Hint:    spaceHint,
	}
}

const spaceHint = "free some space, `banger image prune --dry-run` and `banger vm prune` may help, or set XDG_DATA_HOME to a larger disk"

// explainSpace says what to do about a disk that ran full on the way.
func explainSpace(dir string, err error) error {
	var told *api.Error
	if errors.As(err, &told) || !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	return fmt.Errorf("%w (%v)", &api.Error{Kind: api.KindNoSpace, Message: "no space is left in " + dir, Hint: spaceHint}, err)
}
