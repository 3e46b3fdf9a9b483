package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// packed is a tar.gz of one file.
func packed(t *testing.T, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fakeNPM is an npm client whose registry is one file: it packs what it is
// asked for under the name that npm would choose.
func fakeNPM(t *testing.T, pack []byte) {
	t.Helper()
	dir := t.TempDir()
	put(t, dir, "registry.tgz", string(pack))
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = pack ] && [ \"$6\" = '@x/tool@1.2' ] || exit 1\ncat %s/registry.tgz > \"$5/x-tool-1.2.tgz\"\n", dir)
	put(t, dir, "npm", script)
	if err := os.Chmod(filepath.Join(dir, "npm"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
}

func TestFetchTool(t *testing.T) {
	const good, bad = "a good program", "a bad program!"
	tests := map[string]struct {
		npm, release string // what they hold; "" : absent
		works        bool
	}{
		"npm":                  {npm: good, works: true},
		"npm lies":             {npm: bad, release: good, works: true},
		"no npm":               {release: good, works: true},
		"the release lies":     {release: bad},
		"neither":              {},
		"npm holds more":       {npm: good + " and more"},
		"both lie in one word": {npm: bad, release: bad},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", t.TempDir())
			if test.npm != "" {
				fakeNPM(t, packed(t, "package/bin/tool", test.npm))
			}
			release := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.release == "" {
					http.NotFound(w, r)
					return
				}
				_, _ = w.Write(packed(t, "tool/bin/tool", test.release))
			}))
			defer release.Close()
			sum := sha512.Sum512([]byte(good))
			got := fetchTool(t.Context(), t.TempDir(), catalog.Tool{
				Name: "tool", Version: "1.2", NPM: "@x/tool", Member: "package/bin/tool",
				Release: release.URL, ReleaseMember: "tool/bin/tool", SHA512: hex.EncodeToString(sum[:]), Size: int64(len(good)),
			})
			if (got.err == nil) != test.works {
				t.Fatalf("got %v", got.err)
			}
			installAndLook(t, got, good)
		})
	}
}

// TestAReleaseThatBreaksOffIsTakenUpAgain gives its first half, and the rest to
// who asks for that.
func TestAReleaseThatBreaksOffIsTakenUpAgain(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // no npm
	program := rand.Text()
	archive := packed(t, "tool/bin/tool", program)
	release := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("Range") != "" {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(archive))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(archive)))
		w.Write(archive[:len(archive)/2])
	}))
	defer release.Close()
	sum := sha512.Sum512([]byte(program))
	got := fetchTool(t.Context(), t.TempDir(), catalog.Tool{Name: "tool", Release: release.URL, ReleaseMember: "tool/bin/tool",
		SHA512: hex.EncodeToString(sum[:]), Size: int64(len(program))})
	if got.err != nil {
		t.Fatal(got.err)
	}
	installAndLook(t, got, program)
}

// installAndLook installs what was fetched: the program, or a warning.
func installAndLook(t *testing.T, fetched fetchedTool, want string) {
	t.Helper()
	var warnings []string
	b := &build{dir: t.TempDir(), report: func(e progress.Event) {
		if e.Warning {
			warnings = append(warnings, e.Detail)
		}
	}}
	if err := os.Mkdir(b.tree(), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := b.installTools([]fetchedTool{fetched}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(b.tree(), "usr/local/bin/tool")
	if fetched.err != nil {
		if len(warnings) != 1 || !strings.Contains(warnings[0], "without tool") {
			t.Errorf("warnings: %q", warnings)
		}
		return
	}
	content, err := os.ReadFile(path)
	if err != nil || string(content) != want {
		t.Errorf("installed %q, %v", content, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}
