package catalog

import (
	"encoding/hex"
	"slices"
	"testing"
)

func TestCatalog(t *testing.T) {
	all := All()
	if !slices.ContainsFunc(all, func(e Entry) bool { return e.Name == "debian-bookworm" }) {
		t.Fatal("the default image is missing")
	}
	for _, e := range all {
		if e.Kernel == "" || e.Detail == "" || len(e.Suites) == 0 || e.BuildBytes < 1<<30 {
			t.Errorf("%s is not complete: %+v", e.Name, e)
		}
		packages := slices.Clone(e.Packages)
		slices.Sort(packages)
		if len(slices.Compact(packages)) != len(e.Packages) {
			t.Errorf("%s names a package twice", e.Name)
		}
		for _, tool := range e.Tools {
			if sum, err := hex.DecodeString(tool.SHA512); err != nil || len(sum) != 64 || tool.Size <= 0 {
				t.Errorf("%s of %s is not pinned", tool.Name, e.Name)
			}
		}
	}
}
