package debian

import (
	"fmt"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// world is packages in a short form, one a line:
//
//	name version; Field: value; Field: value
func world(t *testing.T, text string) *index {
	t.Helper()
	var list strings.Builder
	for line := range strings.Lines(text) {
		parts := strings.Split(strings.TrimSpace(line), ";")
		name, version, ok := strings.Cut(parts[0], " ")
		if !ok {
			continue
		}
		fmt.Fprintf(&list, "Package: %s\nVersion: %s\nArchitecture: amd64\nFilename: p/%s\nSize: 1\nSHA256: %064d\n", name, version, name, 0)
		for _, field := range parts[1:] {
			list.WriteString(strings.TrimSpace(field) + "\n")
		}
		list.WriteString("\n")
	}
	x := newIndex()
	if err := x.add(strings.NewReader(list.String()), suite{name: "s", base: "http://m.test"}, "amd64"); err != nil {
		t.Fatal(err)
	}
	return x
}

func names(packages []Package) string {
	var all []string
	for _, p := range packages {
		all = append(all, p.Name+"="+p.Version)
	}
	return strings.Join(all, " ")
}

func TestResolve(t *testing.T) {
	tests := map[string]struct {
		world string
		ask   string
		want  string // "" : not in the archive
	}{
		"alone":                     {"aa 1", "aa", "aa=1"},
		"newest":                    {"aa 1\naa 1.10\naa 1.9", "aa", "aa=1.10"},
		"a tilde is older":          {"aa 1~rc1\naa 1\naa 1~bpo", "aa", "aa=1"},
		"an epoch is newer":         {"aa 9\naa 1:1", "aa", "aa=1:1"},
		"depends":                   {"aa 1; Depends: bb, cc\nbb 1\ncc 1; Depends: bb", "aa", "aa=1 bb=1 cc=1"},
		"pre-depends":               {"aa 1; Pre-Depends: bb\nbb 1", "aa", "aa=1 bb=1"},
		"no recommends":             {"aa 1; Recommends: bb\nbb 1", "aa", "aa=1"},
		"a circle":                  {"aa 1; Depends: bb\nbb 1; Depends: aa", "aa", "aa=1 bb=1"},
		"the first alternative":     {"aa 1; Depends: bb | cc\nbb 1\ncc 1", "aa", "aa=1 bb=1"},
		"the one that is there":     {"aa 1; Depends: bb | cc\ncc 1", "aa", "aa=1 cc=1"},
		"the one that was named":    {"aa 1; Depends: bb | cc\nbb 1\ncc 1", "aa cc", "aa=1 cc=1"},
		"an alternative's version":  {"aa 1; Depends: bb (>= 2) | cc\nbb 1\ncc 1", "aa", "aa=1 cc=1"},
		"a version":                 {"aa 1; Depends: bb (>= 2)\nbb 2", "aa", "aa=1 bb=2"},
		"an older version":          {"aa 1; Depends: bb (<< 2)\nbb 1\nbb 2", "aa", "aa=1 bb=1"},
		"exactly":                   {"aa 1; Depends: bb (= 1-1)\nbb 1-1\nbb 1-2", "aa", "aa=1 bb=1-1"},
		"no such version":           {"aa 1; Depends: bb (>> 2)\nbb 2", "aa", ""},
		"chosen in another version": {"aa 1; Depends: bb (<< 2)\nbb 1\nbb 2", "bb aa", ""},
		"provided":                  {"aa 1; Depends: mail\nbb 1; Provides: mail", "aa", "aa=1 bb=1"},
		"real before provided":      {"aa 1; Depends: mail\nbb 1; Provides: mail\nmail 1", "aa", "aa=1 mail=1"},
		"provided by the named":     {"aa 1; Depends: mail\nbb 1; Provides: mail\ncc 1; Provides: mail", "aa cc", "aa=1 cc=1"},
		"unversioned is not enough": {"aa 1; Depends: mail (>= 1)\nbb 1; Provides: mail", "aa", ""},
		"provided in a version":     {"aa 1; Depends: mail (>= 1)\nbb 1; Provides: mail (= 2)", "aa", "aa=1 bb=1"},
		"provided too old":          {"aa 1; Depends: mail (>= 3)\nbb 1; Provides: mail (= 2)", "aa", ""},
		"an old version provides":   {"aa 1; Depends: mail\nbb 1; Provides: mail\nbb 2", "aa", ""},
		"any architecture":          {"aa 1; Depends: perl:any (>= 5)\nperl 5.36", "aa", "aa=1 perl=5.36"},
		"absent":                    {"aa 1; Depends: bb", "aa", ""},
		"unknown":                   {"aa 1", "bb", ""},
		"essential first":           {"aa 1; Depends: bb\nbb 1; Essential: yes", "aa", "bb=1 aa=1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := resolve(world(t, test.world), strings.Fields(test.ask))
			if test.want == "" {
				if kindOf(err) != api.KindNotFound {
					t.Errorf("got %s, %v", names(got), err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if names(got) != test.want {
				t.Errorf("got %s", names(got))
			}
		})
	}
}

func TestArchiveResolveTakesTheBase(t *testing.T) {
	m := newMirror(t)
	m.publish(publication{suite: "bookworm", debs: []debOf{
		{name: "aa", version: "1", fields: "Depends: bb\n"},
		{name: "bb", version: "1"},
		{name: "core", version: "1", fields: "Essential: yes\nDepends: lib\n"},
		{name: "lib", version: "1"},
		{name: "must", version: "1", fields: "Priority: required\n"},
		{name: "nice", version: "1", fields: "Priority: important\n"},
	}})
	got, err := open(t, m.options(), "bookworm").Resolve("aa")
	if err != nil {
		t.Fatal(err)
	}
	if names(got) != "core=1 aa=1 must=1 bb=1 lib=1" {
		t.Errorf("got %s", names(got))
	}
}

func TestRounds(t *testing.T) {
	tests := map[string]struct {
		world, ask, done string
		want             string
	}{
		"one":                {"aa 1; Depends: bb\nbb 1", "aa", "", "aa bb"},
		"done before":        {"aa 1; Pre-Depends: bb\nbb 1", "aa bb", "bb", "aa"},
		"two":                {"aa 1; Pre-Depends: bb\nbb 1\ncc 1", "aa cc", "", "bb | aa cc"},
		"with what it needs": {"aa 1; Pre-Depends: bb\nbb 1; Depends: cc\ncc 1", "aa", "", "bb cc | aa"},
		"three":              {"aa 1; Pre-Depends: bb\nbb 1; Pre-Depends: cc\ncc 1", "aa", "", "cc | bb | aa"},
		"provided":           {"aa 1; Pre-Depends: vv\nbb 1; Provides: vv", "aa", "", "bb | aa"},
		"a circle":           {"aa 1; Pre-Depends: bb\nbb 1; Pre-Depends: aa", "aa", "", "error"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			all, err := resolve(world(t, test.world), strings.Fields(test.ask))
			if err != nil {
				t.Fatal(err)
			}
			done := []Package{}
			for _, p := range all {
				if p.Name == test.done {
					done = append(done, p)
				}
			}
			got := "error"
			if found, err := rounds(all, done); err == nil {
				var parts []string
				for _, round := range found {
					parts = append(parts, strings.ReplaceAll(names(round), "=1", ""))
				}
				got = strings.Join(parts, " | ")
			}
			if got != test.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestCompareVersions(t *testing.T) {
	for _, pair := range [][2]string{
		{"6.12.9+deb12", "6.12.117+deb12"}, {"1~rc1", "1"}, {"1", "1:0"}, {"2.0-1", "2.0-1+b1"}, {"1.0~bpo12+1", "1.0"},
	} {
		c, err := CompareVersions(pair[0], pair[1])
		if err != nil || c >= 0 {
			t.Errorf("%v: %d, %v", pair, c, err)
		}
	}
	if _, err := CompareVersions("", "1"); err == nil {
		t.Error("an empty version passes")
	}
}
