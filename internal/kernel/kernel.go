// Package kernel keeps the kernels that guests start with. A kernel is an
// uncompressed vmlinux, an initramfs of banger's own, and its modules as a
// read-only ext4 drive that becomes the guest's /lib/modules, whatever the
// image is.
//
// The store is one directory for each kernel:
//
//	<name>/kernel.json           what it is; written last
//	<name>/vmlinux               an ELF file with a PVH entry
//	<name>/modules.ext4          the tree of /lib/modules: <release>/… at its top
//	<name>/early/*.ko            the modules that go into the initramfs
//	<name>/initramfs-<hash>      made of early and of banger's two guest programs
//	<name>/initramfs             a link to the last one made
//
// A kernel is built in a directory that starts with a dot and renamed when it
// is whole; what a killed build left is removed by the next.
package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/progress"
)

// Store is the kernels in one directory. Any number of processes may use it at
// once.
type Store struct {
	// Dir holds a directory for each kernel. It is made when it is missing.
	Dir string
	// Init and Agent are the paths of the two programs that an initramfs is made
	// of: banger-init and banger-vsock-agent. A change of either gives another
	// initramfs at the next Ensure; nothing is fetched for it.
	Init, Agent string
	// Debian says where kernel packages come from.
	Debian debian.Options
	// AtStep, when set, is called with the name of each step of a build just
	// before it is done. Steps gives the names.
	AtStep func(step string)

	mu   sync.Mutex
	made map[string]madeInitramfs // by the state of the files it is made of
}

// Kernel is a kernel of the store or of the catalog.
type Kernel struct {
	Name    string
	Version string // of the package it comes from; "" until it is local
	Release string // uname -r in a guest that runs it
	Source  string // SourceCatalog or SourceImported
	Local   bool   // its files are there
	Created time.Time

	// Paths, and the bytes that the files take on the host; only of a local one.
	// Initramfs is set by Ensure alone.
	Vmlinux, Initramfs, Modules string
	Size                        int64

	// NoDeviceMapper says that VMs need whole copies of their images with it.
	NoDeviceMapper bool

	// HZ is how often a second the kernel's clock ticks (CONFIG_HZ); 0 when that
	// is not known.
	HZ int
}

// record is kernel.json.
type record struct {
	Format  int           `json:"format"` // recordFormat
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Release string        `json:"release"`
	Source  string        `json:"source"`
	Package string        `json:"package"`
	Suite   string        `json:"suite"`
	Created time.Time     `json:"created"`
	Early   []earlyModule `json:"early"`
	// NoDeviceMapper: a VM can't lie its disk over a shared image.
	NoDeviceMapper bool `json:"no_device_mapper,omitempty"`
	// HZ is the kernel's CONFIG_HZ; 0: not known.
	HZ int `json:"hz,omitempty"`
}

// recordFormat grows when kernels built before must be built again. Format 1
// had its modules signed.
const recordFormat = 2

// Where a kernel comes from.
const (
	SourceCatalog  = "catalog"
	SourceImported = "imported"
)

const (
	recordFile  = "kernel.json"
	vmlinuxFile = "vmlinux"
	modulesFile = "modules.ext4"
	earlyDir    = "early"
)

// Ensure gives the kernel of this name, ready to be started: fetched and built
// when it is not there yet, and with an initramfs of the present guest
// programs. Of several callers at once one builds, the others wait for it.
//
// Errors for people carry an *api.Error: not-found (with the names there are),
// unreachable, untrusted, no-space.
func (s *Store) Ensure(ctx context.Context, name string, report progress.Func) (Kernel, error) {
	rec, err := s.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		rec, err = s.make(ctx, name, report)
	}
	if err != nil {
		return Kernel{}, explain(err)
	}
	k := s.kernel(rec)
	k.Initramfs, err = s.ensureInitramfs(rec)
	if err != nil {
		return Kernel{}, explain(err)
	}
	return k, nil
}

// make builds a kernel of the catalog under its lock, unless another process
// has done it meanwhile.
func (s *Store) make(ctx context.Context, name string, report progress.Func) (record, error) {
	entry, err := s.entry(name)
	if err != nil {
		return record{}, err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return record{}, fmt.Errorf("cannot make the kernel store: %w", err)
	}
	unlock, err := s.lock(ctx, name, report)
	if err != nil {
		return record{}, err
	}
	defer unlock()
	if rec, err := s.load(name); !errors.Is(err, fs.ErrNotExist) {
		return rec, err
	}
	return s.build(ctx, entry, report)
}

// List gives the kernels of the store and of the catalog, sorted by name.
func (s *Store) List() ([]Kernel, error) {
	list, err := s.local()
	if err != nil {
		return nil, err
	}
	for _, entry := range catalog {
		if !slices.ContainsFunc(list, func(k Kernel) bool { return k.Name == entry.Name }) {
			list = append(list, Kernel{Name: entry.Name, Source: SourceCatalog})
		}
	}
	slices.SortFunc(list, func(a, b Kernel) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (s *Store) local() ([]Kernel, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernels: %w", err)
	}
	var list []Kernel
	for _, entry := range entries {
		if !validName(entry.Name()) {
			continue
		}
		rec, err := s.load(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // not a whole kernel
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s.kernel(rec))
	}
	return list, nil
}

// load reads a kernel's record; fs.ErrNotExist when the store has no such
// kernel, or one that must be built again.
func (s *Store) load(name string) (record, error) {
	if !validName(name) {
		return record{}, fs.ErrNotExist
	}
	path := filepath.Join(s.Dir, name, recordFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return record{}, fmt.Errorf("cannot read the kernel's record: %w", err)
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return record{}, fmt.Errorf("cannot read %s: %w", path, err)
	}
	if rec.Format < recordFormat {
		return record{}, fmt.Errorf("kernel %s was built by an older banger: %w", name, fs.ErrNotExist)
	}
	if rec.Format > recordFormat {
		return record{}, fmt.Errorf("cannot read %s: it has format %d, and this banger knows format %d", path, rec.Format, recordFormat)
	}
	return rec, nil
}

func (s *Store) kernel(rec record) Kernel {
	dir := filepath.Join(s.Dir, rec.Name)
	return Kernel{
		Name:    rec.Name,
		Version: rec.Version,
		Release: rec.Release,
		Source:  rec.Source,
		Local:   true,
		Created: rec.Created,

		NoDeviceMapper: rec.NoDeviceMapper,
		HZ:             rec.HZ,

		Vmlinux: filepath.Join(dir, vmlinuxFile),
		Modules: filepath.Join(dir, modulesFile),
		Size:    used(filepath.Join(dir, vmlinuxFile)) + used(filepath.Join(dir, modulesFile)),
	}
}

func (s *Store) step(name string, report progress.Func) {
	if s.AtStep != nil {
		s.AtStep(name)
	}
	report(progress.Event{Step: name})
}
