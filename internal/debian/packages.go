package debian

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"pault.ag/go/debian/dependency"
	"pault.ag/go/debian/version"
)

// Package is one .deb of an archive, as its signed index describes it.
type Package struct {
	Name          string
	Version       string // deb-version(7)
	Architecture  string // Debian's name, or "all"
	Size          int64  // bytes of the .deb
	SHA256        string // of the .deb, lower-case hex
	InstalledSize int64  // bytes, as the maintainer estimates them
	Essential     bool
	Priority      string
	Filename      string // below the mirror's base URL
	Suite         string // where it was found

	base       string // the mirror's base URL
	preDepends string
	depends    string
	provides   string
}

// index finds packages by name and by what they provide.
type index struct {
	byName   map[string][]*Package // newest first
	provided map[string][]provision
}

// provision is one entry of a Provides field.
type provision struct {
	by      *Package
	version string // "" when unversioned
}

func newIndex() *index {
	return &index{byName: map[string][]*Package{}, provided: map[string][]provision{}}
}

// maxStanza bounds the paragraph of one package.
const maxStanza = 1 << 20

// add reads a package list: 50 MB, of which a third is of use.
func (x *index) add(list io.Reader, from suite, arch string) error {
	paragraphs := bufio.NewScanner(list)
	paragraphs.Buffer(nil, maxStanza)
	paragraphs.Split(splitParagraphs)
	for paragraphs.Scan() {
		err := parseControl(paragraphs.Text(), func(s stanza) error {
			p, err := parsePackage(s)
			if err != nil {
				return err
			}
			if p.Architecture != arch && p.Architecture != "all" {
				return nil
			}
			p.Suite, p.base = from.name, from.base
			return x.put(p.alone())
		})
		if err != nil {
			return err
		}
	}
	return paragraphs.Err()
}

// splitParagraphs is a [bufio.SplitFunc]: empty lines are between paragraphs.
func splitParagraphs(data []byte, atEOF bool) (advance int, token []byte, err error) {
	if end := bytes.Index(data, []byte("\n\n")); end >= 0 {
		return end + 2, data[:end+1], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// alone gives the package without the rest of the paragraph that its strings are
// parts of.
func (p *Package) alone() *Package {
	for _, s := range []*string{&p.Name, &p.Version, &p.Architecture, &p.SHA256, &p.Priority, &p.Filename, &p.preDepends, &p.depends, &p.provides} {
		*s = strings.Clone(*s)
	}
	return p
}

// put files a package, keeping the newest version of each name first.
func (x *index) put(p *Package) error {
	same := x.byName[p.Name]
	at := len(same)
	if at > 0 {
		mine, err := version.Parse(p.Version)
		if err != nil {
			return fmt.Errorf("package %s: %w", p.Name, err)
		}
		for i, other := range same {
			theirs, err := version.Parse(other.Version)
			if err != nil {
				return fmt.Errorf("package %s: %w", other.Name, err)
			}
			if version.Compare(mine, theirs) > 0 {
				at = i
				break
			}
		}
	}
	x.byName[p.Name] = slices.Insert(same, at, p)
	return x.putProvides(p)
}

func (x *index) putProvides(p *Package) error {
	if p.provides == "" {
		return nil
	}
	provides, err := dependency.Parse(p.provides)
	if err != nil {
		return fmt.Errorf("package %s: cannot read Provides: %w", p.Name, err)
	}
	for _, relation := range provides.Relations {
		for _, v := range relation.Possibilities {
			entry := provision{by: p}
			if v.Version != nil {
				entry.version = v.Version.Number
			}
			x.provided[v.Name] = append(x.provided[v.Name], entry)
		}
	}
	return nil
}

// parsePackage reads a stanza of a package list (deb-control(5), and the
// fields that the archive adds).
func parsePackage(s stanza) (*Package, error) {
	p := &Package{}
	var size, hash string
	for _, f := range s {
		switch f.name {
		case "Package":
			p.Name = f.value
		case "Version":
			p.Version = f.value
		case "Architecture":
			p.Architecture = f.value
		case "Filename":
			p.Filename = f.value
		case "Priority":
			p.Priority = f.value
		case "Essential":
			p.Essential = f.value == "yes"
		case "Size":
			size = f.value
		case "SHA256":
			hash = f.value
		case "Installed-Size":
			kib, _ := strconv.ParseInt(f.value, 10, 40) // an estimate: absent or odd counts as 0
			p.InstalledSize = max(kib, 0) << 10
		case "Pre-Depends":
			p.preDepends = f.value
		case "Depends":
			p.depends = f.value
		case "Provides":
			p.provides = f.value
		}
	}
	d, err := parseDigest(hash, size)
	if err != nil {
		return nil, fmt.Errorf("package %.80q: %w", p.Name, err)
	}
	p.Size, p.SHA256 = d.size, d.sha256
	return p, p.check()
}

// check refuses what no archive has: such a name would end up in a path.
func (p *Package) check() error {
	switch {
	case !isPackageName(p.Name):
		return fmt.Errorf("not a package name: %.80q", p.Name)
	case p.Version == "" || p.Architecture == "":
		return fmt.Errorf("package %s has no version or architecture", p.Name)
	case p.Filename == "" || p.Filename != path.Clean(p.Filename) || path.IsAbs(p.Filename) || strings.HasPrefix(p.Filename, ".."):
		return fmt.Errorf("package %s has the file name %.80q", p.Name, p.Filename)
	case p.Size > maxDeb:
		return fmt.Errorf("package %s has %d bytes, more than is sensible", p.Name, p.Size)
	}
	return nil
}

// isPackageName holds the rule of Debian policy 5.6.7, and the few older names
// that it forbids today.
func isPackageName(name string) bool {
	for i, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c >= 'A' && c <= 'Z':
		case i > 0 && (c == '+' || c == '-' || c == '.'):
		default:
			return false
		}
	}
	return len(name) >= 2
}

func (x *index) newest(name string) (*Package, error) {
	if all := x.byName[name]; len(all) > 0 {
		return all[0], nil
	}
	return nil, notInArchive("no package %q in the archive", name)
}

func (x *index) find(pattern string) ([]Package, error) {
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("not a pattern: %q: %w", pattern, err)
	}
	var found []Package
	for name, all := range x.byName {
		if ok, _ := path.Match(pattern, name); ok {
			found = append(found, *all[0])
		}
	}
	slices.SortFunc(found, func(a, b Package) int { return cmp.Compare(a.Name, b.Name) })
	return found, nil
}

// base names the packages that every Debian system has: essential ones, and
// those of priority "required".
func (x *index) base() []string {
	var names []string
	for name, all := range x.byName {
		if all[0].Essential || all[0].Priority == "required" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// CompareVersions orders versions as deb-version(7) says: negative when a is
// older than b.
func CompareVersions(a, b string) (int, error) {
	va, errA := version.Parse(a)
	vb, errB := version.Parse(b)
	if err := errors.Join(errA, errB); err != nil {
		return 0, fmt.Errorf("cannot compare versions: %w", err)
	}
	return version.Compare(va, vb), nil
}
