// Package image is the store of root filesystems that VMs start from.
//
// An image is a directory <Dir>/<name> with image.json and, when banger made
// it, rootfs.ext4: one read-only ext4 file that all of its VMs share. An image
// can also be registered: then its file stays where it is, and is only used.
// Images of a catalog are built or fetched on first use: out of Debian's signed
// packages, or from a bundle.
package image

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
	"syscall"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/spelling"
)

// Where an image comes from.
const (
	SourceCatalog    = "catalog" // built here
	SourceBundle     = "bundle"
	SourceOCI        = "oci" // a container image
	SourceRegistered = "registered"
)

const (
	recordFile = "image.json"
	rootfsFile = "rootfs.ext4"
)

// Store keeps images. Dir and Cache must be set; a store has no state of its
// own, and any number of processes may use one directory.
type Store struct {
	// Dir holds the images, e.g. ~/.local/share/banger/images.
	Dir string
	// Cache is banger's cache directory, e.g. ~/.cache/banger.
	Cache string
	// Debian says where packages come from. Its Cache is set by the store.
	Debian debian.Options
	// Builder makes filesystems. Nil: mke2fs.
	Builder ext4.Builder
	// AtStep, when not nil, is called with the name of each step of a build as
	// it begins.
	AtStep func(step string)

	// Catalogs say what images can be had. Nil: the embedded one alone.
	Catalogs *catalog.Set

	entries []catalog.Entry // replaces the embedded catalog in tests
}

// known gives the images of the embedded catalog.
func (s *Store) known() []catalog.Entry {
	if s.entries != nil {
		return s.entries
	}
	return catalog.All()
}

// find looks for a name in the embedded catalog.
func (s *Store) find(name string) (catalog.Entry, bool) {
	for _, e := range s.known() {
		if e.Name == name {
			return e, true
		}
	}
	return catalog.Entry{}, false
}

// findAnywhere looks for a name in all catalogs.
func (s *Store) findAnywhere(ctx context.Context, name string) (catalog.Entry, bool, error) {
	if e, ok := s.find(name); ok || s.Catalogs == nil || !validName(name) {
		return e, ok, nil
	}
	return s.Catalogs.Find(ctx, name)
}

// Image is one image, local or still in the catalog only.
type Image struct {
	Name    string
	Source  string // SourceCatalog, …
	Rootfs  string // absolute path of the ext4 file; empty when not local
	Kernel  string // the kernel it starts with; empty: the configured one
	Size    int64  // bytes of the filesystem, the least that a disk can have
	MaxDisk int64  // bytes up to which the filesystem grows online; 0: not known, or not local
	Used    int64  // bytes that the file takes on the host
	Local   bool
	Managed bool // the file is the store's and goes with the image
	Created time.Time
	Detail  string // one line for a person
	Config  Config // what a container runtime would run in it

	// Of a container image.
	Reference string // where it was pulled from; may be empty
	FromFile  bool   // a container image that no registry need have
	Digest    string // "sha256:…"
	Platform  string // "linux/amd64"
}

// Config is what an OCI image says about running it: the fields of the same
// names in its configuration. Most images that are no container images have
// none.
type Config struct {
	Env        []string `json:"env,omitempty"`         // KEY=value
	WorkingDir string   `json:"working_dir,omitempty"` // absolute; empty: /
	User       string   `json:"user,omitempty"`        // user[:group], names or numbers; empty: root
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"` // arguments of Entrypoint, or the command where there is none
}

// API is the image as a client sees it.
func (i Image) API() api.Image {
	return api.Image{
		Name: i.Name, Source: i.Source, Rootfs: i.Rootfs, Kernel: i.Kernel, Size: i.Size, Used: i.Used,
		Local: i.Local, Managed: i.Managed, Created: i.Created, Detail: i.Detail,
		Reference: i.Reference, Digest: i.Digest, Platform: i.Platform,
	}
}

// record is image.json.
type record struct {
	Name     string          `json:"name"`
	Source   string          `json:"source"`
	Rootfs   string          `json:"rootfs,omitempty"` // of a registered image
	Kernel   string          `json:"kernel,omitempty"`
	MaxDisk  int64           `json:"max_disk_bytes,omitempty"`
	Created  time.Time       `json:"created"`
	Detail   string          `json:"detail,omitempty"`
	Archives []debian.Source `json:"archives,omitempty"` // what it was built from
	Config   Config          `json:"config,omitzero"`

	Reference string `json:"reference,omitempty"` // of a container image
	FromFile  bool   `json:"from_file,omitempty"`
	Digest    string `json:"digest,omitempty"`
	Platform  string `json:"platform,omitempty"`

	File *stamp `json:"file,omitempty"` // the file of a registered one as it was then
}

// Get gives an image that is local or in a catalog. Errors carry an
// *api.Error: not-found, with the names that are near, or host, for an image
// whose file is gone or broken.
func (s *Store) Get(ctx context.Context, name string) (Image, error) {
	image, err := s.local(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return image, err
	}
	entry, err := s.entry(ctx, name)
	if err != nil {
		return Image{}, err
	}
	return fromCatalog(entry), nil
}

// entry finds what an image that is not local can be made of.
func (s *Store) entry(ctx context.Context, name string) (catalog.Entry, error) {
	entry, ok, err := s.findAnywhere(ctx, name)
	if ok {
		return entry, nil
	}
	return catalog.Entry{}, s.unknown(ctx, name, err)
}

// unknown says that there is no such image, and which catalog could not be
// asked: it may be the one that has it.
func (s *Store) unknown(ctx context.Context, name string, unread error) error {
	missing := s.notFound(ctx, name)
	var told, cause *api.Error
	if !errors.As(missing, &told) || !errors.As(unread, &cause) {
		return missing
	}
	return &api.Error{
		Kind: told.Kind, Message: fmt.Sprintf("%s (%v)", told.Message, unread),
		Hint: fmt.Sprintf("%s; of the catalog: %s", told.Hint, cause.Hint),
	}
}

func fromCatalog(e catalog.Entry) Image {
	return Image{Name: e.Name, Source: SourceCatalog, Kernel: e.Kernel, Managed: true, Detail: e.Detail}
}

// List gives the local images and what else the catalog has, sorted by name.
// An image that is broken is listed with the reason as its Detail.
func (s *Store) List() ([]Image, error) {
	names, err := s.localNames()
	if err != nil {
		return nil, err
	}
	var all []Image
	for _, name := range names {
		image, err := s.local(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted just now
		}
		if err != nil {
			image = Image{Name: name, Source: api.ImageBroken, Local: true, Detail: err.Error()}
		}
		all = append(all, image)
	}
	for _, entry := range s.known() {
		if !slices.Contains(names, entry.Name) {
			all = append(all, fromCatalog(entry))
		}
	}
	slices.SortFunc(all, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

func (s *Store) localNames() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list images: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && validName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// readRecord reads an image's record; fs.ErrNotExist when it is not there.
func (s *Store) readRecord(name string) (record, error) {
	if !validName(name) {
		return record{}, fs.ErrNotExist
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, name, recordFile))
	if err != nil {
		return record{}, fmt.Errorf("cannot read image %s: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return record{}, broken(name, fmt.Errorf("cannot read its %s: %w", recordFile, err))
	}
	return r, nil
}

// local reads an image from the store; fs.ErrNotExist when it is not there.
func (s *Store) local(name string) (Image, error) {
	r, err := s.readRecord(name)
	if err != nil {
		return Image{}, err
	}
	image := Image{
		Name: name, Source: r.Source, Rootfs: r.Rootfs, Kernel: r.Kernel, MaxDisk: r.MaxDisk,
		Local: true, Created: r.Created, Detail: r.Detail, Config: r.Config,
		Reference: r.Reference, FromFile: r.FromFile, Digest: r.Digest, Platform: r.Platform,
	}
	if r.Source != SourceRegistered {
		image.Managed = true
		image.Rootfs = filepath.Join(s.Dir, name, rootfsFile)
	}
	if err := image.measure(); err != nil {
		return Image{}, broken(name, err)
	}
	if err := r.File.check(image.Rootfs); err != nil {
		return Image{}, broken(name, err)
	}
	return image, nil
}

// Check says what is wrong with a local image, a registered one's file that was
// changed for instance: VMs must not start over it.
func (s *Store) Check(name string) error {
	_, err := s.local(name)
	return err
}

// measure looks at the filesystem's file.
func (i *Image) measure() error {
	info, err := ext4.Read(i.Rootfs)
	if err != nil {
		// The cause is not wrapped: a lost file must not look like an image
		// that never was.
		return fmt.Errorf("%s: %v", i.Rootfs, err)
	}
	i.Size = info.Size
	if i.MaxDisk <= 0 || i.MaxDisk > info.MaxDisk { // a bundle may say anything
		i.MaxDisk = info.MaxDisk
	}
	stat, err := os.Stat(i.Rootfs)
	if err != nil {
		return err
	}
	i.Used = stat.Sys().(*syscall.Stat_t).Blocks * 512
	return nil
}

func broken(name string, err error) error {
	return &api.Error{
		Kind:    api.KindHost,
		Message: fmt.Sprintf("image %s is broken: %v", name, err),
		Hint:    fmt.Sprintf("`banger image delete %s`, then get or register it again", name),
	}
}

// notFound names what there is, the nearest name first.
func (s *Store) notFound(ctx context.Context, name string) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	hint := "known images: " + strings.Join(names, ", ")
	if near := spelling.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("did you mean %s? %s", near, hint)
	}
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("no image %q", name), Hint: hint}
}

// names gives the names of all images, local ones and those of the catalogs
// that can be read.
func (s *Store) names(ctx context.Context) ([]string, error) {
	known, err := s.List()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, i := range known {
		names = append(names, i.Name)
	}
	for _, c := range s.Listings(ctx) {
		for _, e := range c.Entries {
			if !slices.Contains(names, e.Name) {
				names = append(names, e.Name)
			}
		}
	}
	return names, nil
}

// Listings gives what each catalog has.
func (s *Store) Listings(ctx context.Context) []catalog.Listing {
	if s.Catalogs == nil {
		return []catalog.Listing{{Source: catalog.Embedded, Entries: s.known()}}
	}
	return s.Catalogs.List(ctx)
}

// validName allows what is safe as a directory and readable in a table: lower
// case letters, digits, "-" and "." inside, at most 63 bytes.
func validName(name string) bool {
	for i, c := range []byte(name) {
		inside := i > 0 && i < len(name)-1
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case inside && (c == '-' || c == '.'):
		default:
			return false
		}
	}
	return name != "" && len(name) <= 63 && !strings.Contains(name, "..")
}
