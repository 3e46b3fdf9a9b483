// Package catalog holds the images that banger knows how to get: those of the
// catalog that is part of the program, and those of catalogs elsewhere, which
// are files of the same form that any web server can serve.
//
// A catalog's file is {"format": 1, "images": […]}; its entries are [Entry].
package catalog

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

//go:embed catalog.json
var data []byte

// The types of entries.
const (
	TypeDebian = "debian" // built here from Debian's signed packages
	TypeBundle = "bundle" // a filesystem that was made elsewhere, as one file
	TypeOCI    = "oci"    // a container image, pinned by its digest
)

// Format is the form of a catalog's file that this program reads and writes.
const Format = 1

// FileName is a catalog's file in a folder of bundles.
const FileName = "catalog.json"

// Entry is one image that can be had.
type Entry struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	Detail string `json:"detail,omitempty"` // one line for a person
	Kernel string `json:"kernel,omitempty"` // the kernel it starts with; empty: the configured one
	// Arch is the processor's architecture as Go calls it, "amd64"; empty: any.
	Arch string `json:"arch,omitempty"`

	// Of type debian.

	// Suites are those of Debian's archive that its packages come from.
	Suites []string `json:"suites,omitempty"`
	// Packages are installed beside the essential and required ones.
	Packages []string `json:"packages,omitempty"`
	// Tools are programs that Debian does not have.
	Tools []Tool `json:"tools,omitempty"`
	// BuildBytes is how much disk a build takes at its height, packages,
	// tree and filesystem together.
	BuildBytes int64 `json:"build_bytes,omitempty"`

	// Of type bundle.

	// URL is where the bundle is; one without a scheme is taken from where the
	// catalog is.
	URL    string `json:"url,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // of the bundle, lower-case hex
	Size   int64  `json:"size,omitempty"`   // bytes of the bundle

	// Of type oci.

	// Reference is registry, repository and digest.
	Reference string `json:"reference,omitempty"`

	// Catalog is where the entry was read: "embedded", or what the settings
	// name.
	Catalog string `json:"-"`
}

// Tool is one program, pinned by the hash of its file.
type Tool struct {
	Name    string `json:"name"` // it becomes /usr/local/bin/<Name>
	Version string `json:"version"`
	// NPM is the package that holds it, at Version, as Member.
	NPM    string `json:"npm"`
	Member string `json:"member"`
	// Release is the URL of a tar.gz that holds the same file as ReleaseMember.
	Release       string `json:"release"`
	ReleaseMember string `json:"release_member"`
	SHA512        string `json:"sha512"` // of the program itself, lower-case hex
	Size          int64  `json:"size"`   // bytes of the program
}

// File is a catalog as it is written down.
type File struct {
	Format int     `json:"format"`
	Images []Entry `json:"images"`
}

// entries is parsed once; a mistake in it is found by the first test.
var entries = func() []Entry {
	var f File
	if err := json.Unmarshal(data, &f); err != nil {
		panic(fmt.Sprintf("the embedded catalog is broken: %v", err))
	}
	for i := range f.Images {
		f.Images[i].Catalog = Embedded
	}
	return f.Images
}()

// All gives the entries of the embedded catalog, sorted by name.
func All() []Entry {
	all := slices.Clone(entries)
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// ErrNewer says that a catalog or a bundle was made for a newer banger.
var ErrNewer = errors.New("it was made for a newer banger")

// Parse reads a catalog's file and refuses it as a whole when one of its
// entries is not right. Unknown fields are left alone: a newer banger's.
func Parse(text []byte) (File, error) {
	var f File
	if err := json.Unmarshal(text, &f); err != nil {
		return File{}, fmt.Errorf("it is no catalog: %w", err)
	}
	if f.Format > Format {
		return File{}, fmt.Errorf("%w: it has format %d, and this one knows %d", ErrNewer, f.Format, Format)
	}
	if f.Format < 1 {
		return File{}, errors.New("it is no catalog: it does not say its format")
	}
	seen := map[string]bool{}
	for _, e := range f.Images {
		if seen[e.Name] {
			return File{}, fmt.Errorf("it has %q twice", e.Name)
		}
		seen[e.Name] = true
		if err := e.check(); err != nil {
			return File{}, fmt.Errorf("its entry %q: %w", e.Name, err)
		}
	}
	return f, nil
}

var (
	nameForm      = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`)
	kernelForm    = regexp.MustCompile(`^([a-z0-9][a-z0-9._-]{0,62})?$`)
	sha256Form    = regexp.MustCompile(`^[0-9a-f]{64}$`)
	suiteForm     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,40}$`)
	packageForm   = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{1,100}$`)
	referenceForm = regexp.MustCompile(`^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)+@sha256:[0-9a-f]{64}$`)
)

// maxDetail bounds what is shown of an entry.
const maxDetail = 300

// check refuses what a catalog from elsewhere must not say.
func (e Entry) check() error {
	switch {
	case !nameForm.MatchString(e.Name) || strings.Contains(e.Name, ".."):
		return errors.New("that is no name for an image")
	case !kernelForm.MatchString(e.Kernel):
		return fmt.Errorf("%q is no name of a kernel", e.Kernel)
	case len(e.Detail) > maxDetail:
		return errors.New("its detail is too long")
	}
	switch e.Type {
	case TypeDebian:
		return e.checkDebian()
	case TypeBundle:
		return e.checkBundle()
	case TypeOCI:
		if !referenceForm.MatchString(e.Reference) {
			return errors.New("its reference is not registry/repository@sha256:digest")
		}
		return nil
	}
	return fmt.Errorf("there is no type %q; it may be made for a newer banger", e.Type)
}

// checkDebian lets through names only. Tools are not: they are trusted because
// they are part of the program.
func (e Entry) checkDebian() error {
	if len(e.Tools) > 0 {
		return errors.New("only the catalog that is part of banger may have tools")
	}
	if len(e.Suites) == 0 || len(e.Suites) > 10 || len(e.Packages) > 2000 || e.BuildBytes < 0 {
		return errors.New("its suites or packages are missing or too many")
	}
	for _, s := range e.Suites {
		if !suiteForm.MatchString(s) {
			return fmt.Errorf("%q is no suite", s)
		}
	}
	for _, p := range e.Packages {
		if !packageForm.MatchString(p) {
			return fmt.Errorf("%q is no package", p)
		}
	}
	return nil
}

func (e Entry) checkBundle() error {
	switch {
	case e.URL == "":
		return errors.New("it does not say where its bundle is")
	case !sha256Form.MatchString(e.SHA256):
		return errors.New("its sha256 is not 64 hexadecimal digits")
	case e.Size <= 0:
		return errors.New("it does not say the size of its bundle")
	case e.Arch == "":
		return errors.New("it does not say its architecture")
	}
	return nil
}

// Fits says whether the entry is for this processor.
func (e Entry) Fits() bool { return e.Arch == "" || e.Arch == runtime.GOARCH }

// Bundle is the entry of a bundle that was made here. Its URL is left open.
func Bundle(name, detail, kernel, sha256 string, size int64) Entry {
	return Entry{Name: name, Type: TypeBundle, Detail: detail, Kernel: kernel, Arch: runtime.GOARCH, SHA256: sha256, Size: size}
}

// With gives the catalog with e in it, instead of one of the same name.
func (f File) With(e Entry) File {
	images := slices.DeleteFunc(slices.Clone(f.Images), func(old Entry) bool { return old.Name == e.Name })
	images = append(images, e)
	slices.SortFunc(images, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return File{Format: f.Format, Images: images}
}
