package arch

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	quoted   = regexp.MustCompile("`([^`]+)`")
	testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(`)
)

// The README says what survives what; each row names the tests that show it, so that
// one can tell which is meant.
func TestWhatSurvivesWhatIsTested(t *testing.T) {
	const root = "../.."
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## What survives what\n")
	if !found {
		t.Fatal("the README does not say what survives what")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	known := allTests(t, root)
	rows := 0
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 || strings.Contains(line, "---") || strings.Contains(line, "shown by") {
			continue
		}
		rows++
		names := quoted.FindAllStringSubmatch(cells[2], -1)
		if len(names) == 0 {
			t.Errorf("no test is named for %q", strings.TrimSpace(cells[0]))
		}
		for _, name := range names {
			if n := known[name[1]]; n != 1 {
				t.Errorf("there are %d tests %s, which is named for %q; a package's name tells them apart: vm.%[2]s", n, name[1], strings.TrimSpace(cells[0]))
			}
		}
	}
	if rows == 0 {
		t.Error("the table has no row")
	}
}

// allTests says how many there are of each name: of all test functions, whatever their
// build tags, with and without their package, and of the scripts, each with its
// directory: life/run.
func allTests(t *testing.T, root string) map[string]int {
	t.Helper()
	known := map[string]int{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		switch {
		case strings.HasSuffix(path, "_test.go"):
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range testFunc.FindAllSubmatch(text, -1) {
				known[string(m[1])]++
				known[filepath.Base(filepath.Dir(path))+"."+string(m[1])]++
			}
		case strings.HasSuffix(path, ".txtar"):
			known[filepath.Base(filepath.Dir(path))+"/"+strings.TrimSuffix(filepath.Base(path), ".txtar")]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return known
}
