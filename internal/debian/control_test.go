package debian

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func parseAll(text string) ([]map[string]string, error) {
	var all []map[string]string
	err := parseControl(text, func(s stanza) error {
		fields := map[string]string{}
		for _, f := range s {
			fields[f.name] = f.value
		}
		all = append(all, fields)
		return nil
	})
	return all, err
}

func TestParseControl(t *testing.T) {
	text := "Package: a\nDescription: short\n long\n .\n\tlonger\n\n\n# comment\nPackage: b\r\nEmpty:\n   \nPackage: c"
	want := []map[string]string{
		{"Package": "a", "Description": " short\n long\n .\n\tlonger"},
		{"Package": "b", "Empty": ""},
		{"Package": "c"},
	}
	got, err := parseAll(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{" continued", "no colon", "A b: c", ": x", strings.Repeat("A: b\n", maxStanzaFields+1)} {
		if _, err := parseAll(bad); err == nil {
			t.Errorf("%.40q passes", bad)
		}
	}
}

func TestStanzaGet(t *testing.T) {
	s := stanza{{"Suites", "x"}}
	if s.get("SUITES") != "x" || s.get("other") != "" {
		t.Error("names must not depend on case")
	}
}

// FuzzControl holds that what was parsed and is written again reads the same.
func FuzzControl(f *testing.F) {
	f.Add("Package: a\nDescription: short\n long\n\nPackage: b\n")
	f.Add("A:\n b\n# c\n d\n")
	f.Add(" x")
	f.Fuzz(func(t *testing.T, text string) {
		first, err := parseAll(text)
		if err != nil {
			return
		}
		var again strings.Builder
		_ = parseControl(text, func(s stanza) error {
			for _, f := range s {
				again.WriteString(f.name + ":" + f.value + "\n")
			}
			again.WriteString("\n")
			return nil
		})
		second, err := parseAll(again.String())
		if err != nil {
			t.Fatalf("%v in %q", err, again.String())
		}
		if len(first) != len(second) {
			t.Fatalf("%d stanzas, then %d", len(first), len(second))
		}
	})
}

// FuzzPackages reads a package list as if it had been signed: no name in it
// may lead out of a directory.
func FuzzPackages(f *testing.F) {
	f.Add("Package: a1\nVersion: 1:2-3~x\nArchitecture: all\nFilename: pool/a\nSize: 1\nSHA256: " + strings.Repeat("ab", 32) +
		"\nProvides: x (= 1), y\nDepends: libc6 (>= 2.36), awk | mawk:any\n")
	f.Fuzz(func(t *testing.T, text string) {
		x := newIndex()
		if err := x.add(strings.NewReader(text), suite{name: "s", base: "http://m.test"}, "amd64"); err != nil {
			return
		}
		for name, all := range x.byName {
			for _, p := range all {
				if strings.ContainsAny(name, "/\x00") || strings.HasPrefix(p.Filename, "/") || strings.HasPrefix(p.Filename, "..") {
					t.Errorf("%q in %q passes", name, p.Filename)
				}
				_, _ = resolve(x, []string{name})
			}
		}
	})
}

// An index keeps what it needs of a list, and not the list: descriptions are the
// most of Debian's, and a build has the index all the time.
func TestAnIndexIsSmallerThanItsList(t *testing.T) {
	const packages = 5000
	var list strings.Builder
	for i := range packages {
		fmt.Fprintf(&list, "Package: package-%d\nVersion: 1\nArchitecture: amd64\nFilename: pool/p-%d.deb\nSize: 1\nSHA256: %064d\nDepends: libc6 (>= 2.36)\nDescription: %s\n\n",
			i, i, i, strings.Repeat("long ", 1000))
	}
	from := strings.NewReader(list.String())
	before := heap()
	x := newIndex()
	if err := x.add(from, suite{name: "s", base: "http://m.test"}, "amd64"); err != nil {
		t.Fatal(err)
	}
	grown := heap() - before
	if len(x.byName) != packages || grown > from.Size()/4 {
		t.Errorf("%d packages take %d bytes, their list has %d", len(x.byName), grown, from.Size())
	}
}

// heap is how much memory is in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestParagraphs(t *testing.T) {
	x := newIndex()
	one := func(name string) string {
		return fmt.Sprintf("Package: %s\nVersion: 1\nArchitecture: all\nFilename: pool/p.deb\nSize: 1\nSHA256: %064d\n", name, 1)
	}
	list := "\n\n" + one("first") + "\n\n\n" + one("second") + " \n" + one("third") + "\n" + strings.TrimSuffix(one("last"), "\n")
	if err := x.add(iotest.OneByteReader(strings.NewReader(list)), suite{}, "amd64"); err != nil || len(x.byName) != 4 {
		t.Errorf("%d packages, %v", len(x.byName), err)
	}
	if err := newIndex().add(strings.NewReader("Package: "+strings.Repeat("x", maxStanza)), suite{}, "amd64"); err == nil {
		t.Error("a paragraph without an end passes")
	}
}
