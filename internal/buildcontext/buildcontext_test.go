package buildcontext

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// tree makes files of a text in a directory of its own.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The names and places are those of `docker build`.
func TestTheDockerfileAndItsIgnoreFile(t *testing.T) {
	dir := tree(t, map[string]string{
		"app/Dockerfile": "FROM default", "app/.dockerignore": "of-the-context",
		"lower/dockerfile": "FROM lower", "lower/Dockerfile.dockerignore": "of-the-dockerfile", "lower/.dockerignore": "of-the-context",
		"other/my.Dockerfile": "FROM other", "other/my.Dockerfile.dockerignore": "of-the-dockerfile",
		"bare/Dockerfile": "FROM bare",
	})
	for name, tt := range map[string]struct{ context, file, dockerfile, ignore string }{
		"the default":      {"app", "", "FROM default", "of-the-context"},
		"in lower case":    {"lower", "", "FROM lower", "of-the-dockerfile"},
		"elsewhere":        {"app", filepath.Join(dir, "other/my.Dockerfile"), "FROM other", "of-the-dockerfile"},
		"standard input":   {"app", "-", "FROM stdin", "of-the-context"},
		"nothing to leave": {"bare", "", "FROM bare", ""},
	} {
		c, err := Open(t.Context(), filepath.Join(dir, tt.context), tt.file, strings.NewReader("FROM stdin"))
		if err != nil || string(c.Dockerfile) != tt.dockerfile || string(c.Ignore) != tt.ignore {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestWhatCanNotBeBuilt(t *testing.T) {
	dir := tree(t, map[string]string{
		"empty/Dockerfile": "\n", "none/x": "x", "bad/Dockerfile": "FROM x", "bad/.dockerignore": "a[",
		"big/Dockerfile": strings.Repeat("#", maxFile+1), "directory/Dockerfile/x": "x",
	})
	for name, tt := range map[string]struct{ context, file, says string }{
		"no context":    {"missing", "", "no such file"},
		"a file":        {"none/x", "", "not a directory"},
		"no Dockerfile": {"none", "", "cannot read the Dockerfile"},
		"an empty one":  {"empty", "", "is empty"},
		"a huge one":    {"big", "", "more than 1024 KiB"},
		"a directory":   {"directory", "", "cannot read the Dockerfile"},
		"a bad pattern": {"bad", "", "what to ignore"},
		"not that one":  {"bad", filepath.Join(dir, "nosuch"), "no such file"},
	} {
		_, err := Open(t.Context(), filepath.Join(dir, tt.context), tt.file, strings.NewReader(""))
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindBadRequest || !strings.Contains(told.Message, tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"https://example.test/repo.git", "git@example.test:repo"} {
		if _, err := Open(t.Context(), url, "", nil); err == nil || !strings.Contains(err.Error(), "a directory of this host") {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestAContextFromStandardInput(t *testing.T) {
	c, err := Open(t.Context(), "-", "docker/Dockerfile", strings.NewReader("FROM x"))
	if err != nil || c.File != "docker/Dockerfile" || c.Dir != "" {
		t.Fatalf("%+v, %v", c, err)
	}
	if all, err := io.ReadAll(c.Stream); err != nil || string(all) != "FROM x" {
		t.Errorf("it says %q, %v", all, err)
	}
	for name, tt := range map[string]struct{ file, input, says string }{
		"nothing":         {"", "", "no context on standard input"},
		"two of one pipe": {"-", "FROM x", "can't be both"},
	} {
		_, err := Open(t.Context(), "-", tt.file, strings.NewReader(tt.input))
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindBadRequest || !strings.Contains(told.Message, tt.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A pipe whose writer says nothing holds nobody who wants out.
func TestASilentStandardInput(t *testing.T) {
	for name, tt := range map[string]struct{ context, file string }{
		"the context":    {"-", ""},
		"the Dockerfile": {t.TempDir(), "-"},
	} {
		stdin, writer := io.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		asked := make(chan struct{})
		go func() { <-asked; cancel() }()
		if _, err := Open(ctx, tt.context, tt.file, io.MultiReader(&signal{asked}, stdin)); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		writer.Close()
	}
}

// signal is an empty file that tells that it is read.
type signal struct{ read chan struct{} }

func (s *signal) Read([]byte) (int, error) { close(s.read); return 0, io.EOF }

func TestWhatIsIgnored(t *testing.T) {
	files := map[string]string{"Dockerfile": "FROM x", "main.go": "12345", "node_modules/a/b": "12345", "secret.pem": "12345", "docs/a.md": "12345", "docs/keep.md": "12345", "log/x/y/keep": "1"}
	files[".dockerignore"] = "# what stays here\nnode_modules\n/*.pem\ndocs\n!docs/keep.md\nlog/**\n!log/*/*/keep\n"
	c, err := Open(t.Context(), tree(t, files), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for path, keep := range map[string]bool{
		"main.go": true, "secret.pem": false, "sub/secret.pem": true, "node_modules/a/b": false,
		"docs/a.md": false, "docs/keep.md": true, "log/x/y/keep": true, "log/x/y/z": false,
	} {
		if c.Keep(path, false) != keep {
			t.Errorf("%s goes: %v", path, !keep)
		}
	}
	for path, enter := range map[string]bool{"docs": true, "log/x": true, "sub": true, "node_modules": false} {
		if c.Keep(path, true) != enter {
			t.Errorf("%s is entered: %v", path, !enter)
		}
	}
	got, err := c.Size()
	want := int64(len(files["Dockerfile"]) + len(files[".dockerignore"]) + len("12345")*2 + len("1"))
	if err != nil || got != want {
		t.Errorf("it has %d bytes, want %d (%v)", got, want, err)
	}
}
