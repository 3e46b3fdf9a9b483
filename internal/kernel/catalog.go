package kernel

import (
	_ "embed"
	"encoding/json"
	"regexp"
	"slices"
)

// catalogEntry is a kernel that banger can fetch.
type catalogEntry struct {
	Name    string   `json:"name"`
	Sources []source `json:"sources"` // the first that has a package is taken
}

// source is where a kernel's package may be: the newest of those whose names
// match the pattern (path.Match), debugging and unsigned ones left out.
type source struct {
	Suites   []string `json:"suites"`
	Packages string   `json:"packages"`
}

//go:embed catalog.json
var catalogText []byte

// catalog is what banger was built with.
var catalog = mustReadCatalog(catalogText)

func mustReadCatalog(text []byte) []catalogEntry {
	var entries []catalogEntry
	if err := json.Unmarshal(text, &entries); err != nil {
		panic("kernel: the embedded catalog is broken: " + err.Error())
	}
	return entries
}

// entry finds a kernel of the catalog.
func (s *Store) entry(name string) (catalogEntry, error) {
	for _, entry := range catalog {
		if entry.Name == name {
			return entry, nil
		}
	}
	list, err := s.List()
	if err != nil {
		return catalogEntry{}, err
	}
	var known []string
	for _, k := range list {
		known = append(known, k.Name)
	}
	slices.Sort(known)
	return catalogEntry{}, notFound(name, known)
}

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// validName tells names that are safe as a directory's.
func validName(name string) bool { return nameForm.MatchString(name) }
