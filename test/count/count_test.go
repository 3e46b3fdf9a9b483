package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module writes a Go module with a test file of each name and text.
func module(t *testing.T, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	files["go.mod"] = "module m\n\ngo 1.26\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	if out, err := exec.Command("go", "version").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

const head = "package m\n\nimport \"testing\"\n\n"

func TestTally(t *testing.T) {
	module(t, map[string]string{
		"a/a_test.go": head + `
func TestGood(t *testing.T) {}
func TestBad(t *testing.T) { t.Error("why it failed") }
func TestSkip(t *testing.T) { t.Skip("no time") }
func TestTree(t *testing.T) {
	t.Run("good", func(t *testing.T) {})
	t.Run("bad", func(t *testing.T) { t.Run("leaf", func(t *testing.T) { t.Fail() }) })
}
func TestOwnFault(t *testing.T) { t.Run("good", func(t *testing.T) {}); t.Fail() }
`,
		"b/b_test.go": head + "func TestPanics(t *testing.T) { panic(\"boom\") }\n",
		"c/c_test.go": head + "func TestX(t *testing.T) { undefined() }\n",
		"d/d_test.go": head + "func TestMain(m *testing.M) { panic(\"main\") }\nfunc TestY(t *testing.T) {}\n",
		"e/e_test.go": "package m\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc TestEnds(t *testing.T) { println(\"where it stood\"); os.Exit(3) }\n",
	})
	var shown strings.Builder
	got := suite{name: "s", packages: []string{"./..."}}.run(t.Context(), &shown)
	want := []string{"m/a TestBad", "m/a TestOwnFault", "m/a TestSkip (skipped)", "m/a TestTree/bad/leaf", "m/b TestPanics", "m/c", "m/d", "m/e"}
	var failed []string
	for _, f := range got.failures {
		failed = append(failed, f.what)
	}
	if got.passed != 3 || !slices.Equal(failed, want) {
		t.Errorf("%d passed, failures %q\n%s", got.passed, failed, shown.String())
	}
	for _, text := range []string{"why it failed", "boom", "undefined: undefined", "where it stood"} {
		if !strings.Contains(shown.String(), text) {
			t.Errorf("%q was not shown in\n%s", text, shown.String())
		}
	}
	for _, text := range []string{"FAILED: m/a TestBad\n    ", "why it failed", "boom", "where it stood", "\n3 passed, 8 failed\n"} {
		if !strings.Contains(got.String(), text) {
			t.Errorf("%q is not on the last page\n%s", text, got)
		}
	}
}

func TestOnlyTheTaggedTests(t *testing.T) {
	module(t, map[string]string{
		"a/plain_test.go": head + "func TestPlain(t *testing.T) {}\n",
		"a/deep_test.go":  "//go:build deep\n\n" + head + "func TestDeep(t *testing.T) {}\n",
		"b/b_test.go":     "//go:build deep\n\n" + head + "func TestElsewhere(t *testing.T) {}\n",
	})
	var shown strings.Builder
	got := suite{name: "s", tag: "deep", packages: []string{"./a/..."}, loud: true}.run(t.Context(), &shown)
	if got.passed != 1 || len(got.failures) != 0 || !strings.Contains(shown.String(), "ok    TestDeep") {
		t.Errorf("%+v\n%s", got, shown.String())
	}
}

func TestASuiteWithoutTestsFails(t *testing.T) {
	module(t, map[string]string{"a/a.go": "package a\n"})
	if got := (suite{name: "s", packages: []string{"./..."}}).run(t.Context(), &strings.Builder{}); len(got.failures) != 1 {
		t.Errorf("%+v", got)
	}
}
