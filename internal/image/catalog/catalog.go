// Package catalog holds the images that banger knows how to get, as data that
// is part of the program.
package catalog

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

//go:embed catalog.json
var data []byte

// Entry is one image that can be built.
type Entry struct {
	Name   string `json:"name"`
	Detail string `json:"detail"` // one line for a person
	Kernel string `json:"kernel"` // the kernel it starts with
	// Suites are those of Debian's archive that its packages come from.
	Suites []string `json:"suites"`
	// Packages are installed beside the essential and required ones.
	Packages []string `json:"packages"`
	// Tools are programs that Debian does not have.
	Tools []Tool `json:"tools"`
	// BuildBytes is how much disk a build takes at its height, packages,
	// tree and filesystem together.
	BuildBytes int64 `json:"build_bytes"`
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

// entries is parsed once; a mistake in it is found by the first test.
var entries = func() []Entry {
	var e []Entry
	if err := json.Unmarshal(data, &e); err != nil {
		panic(fmt.Sprintf("the embedded catalog is broken: %v", err))
	}
	return e
}()

// All gives the entries, sorted by name.
func All() []Entry {
	all := slices.Clone(entries)
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all
}
