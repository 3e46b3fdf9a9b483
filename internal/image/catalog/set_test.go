package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
)

func write(t *testing.T, images ...Entry) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), FileName)
	text, err := json.Marshal(File{Format: Format, Images: images})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func bundled(name string) Entry {
	return Entry{Name: name, Type: TypeBundle, Arch: "amd64", URL: name + ".tar.zst", SHA256: strings.Repeat("a", 64), Size: 1}
}

func TestTheFirstWins(t *testing.T) {
	first, second := write(t, bundled("a"), bundled("debian-bookworm")), write(t, bundled("a"), bundled("b"))
	s := &Set{Sources: []string{first, "file://" + second}}
	for name, want := range map[string]string{"a": first, "b": "file://" + second, "debian-bookworm": Embedded} {
		if e, ok, err := s.Find(t.Context(), name); !ok || err != nil || e.Catalog != want {
			t.Errorf("%s is of %q, %v, %v", name, e.Catalog, ok, err)
		}
	}
	e, _, _ := s.Find(t.Context(), "a")
	if e.URL != "file://"+filepath.Dir(first)+"/a.tar.zst" {
		t.Errorf("its bundle is at %s", e.URL)
	}
	if _, ok, err := s.Find(t.Context(), "c"); ok || err != nil {
		t.Errorf("c: %v, %v", ok, err)
	}
}

func TestServedCatalog(t *testing.T) {
	path := write(t, bundled("a"))
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		http.ServeFile(w, r, path)
	}))
	defer server.Close()
	s := &Set{Sources: []string{server.URL + "/images/catalog.json"}}
	for range 3 {
		if e, ok, err := s.Find(t.Context(), "a"); !ok || err != nil || e.URL != server.URL+"/images/a.tar.zst" {
			t.Fatalf("%+v, %v, %v", e, ok, err)
		}
	}
	if asked != 1 {
		t.Errorf("it was asked %d times", asked)
	}
}

// A catalog that can't be read is told with what to do about it.
func TestUnreadableCatalogs(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	defer server.Close()
	newer := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(newer, []byte(`{"format": 2}`), 0o644); err != nil {
		t.Fatal(err)
	}
	for source, want := range map[string]struct {
		kind api.Kind
		hint string
	}{
		filepath.Join(t.TempDir(), "none.json"): {api.KindNotFound, "`catalogs` in config.toml"},
		t.TempDir():                             {api.KindHost, "`catalogs` in config.toml"},
		server.URL + "/catalog.json":            {api.KindNotFound, "`catalogs` in config.toml"},
		gone.URL + "/catalog.json":              {api.KindUnreachable, "look at the network"},
		newer:                                   {api.KindUntrusted, "get a newer banger"},
	} {
		_, _, err := (&Set{Sources: []string{source}}).Find(t.Context(), "a")
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != want.kind || !strings.Contains(told.Hint, want.hint) || !strings.Contains(told.Message, source) {
			t.Errorf("%s: %v (%+v)", source, err, told)
		}
	}
}

// silent is a server that begins a catalog and says no more.
func silent(t *testing.T) (address string, asked <-chan struct{}) {
	t.Helper()
	begun := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "{")
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	return server.URL + "/catalog.json", begun
}

func TestASlowCatalog(t *testing.T) {
	source, _ := silent(t)
	_, err := readSource(t.Context(), source, 50*time.Millisecond)
	var told *api.Error
	if err == nil || !errors.As(unreadable(source, err), &told) || told.Kind != api.KindUnreachable || !strings.Contains(told.Hint, "look at the network") || !strings.Contains(told.Message, "longer than 50ms") {
		t.Errorf("%v (%+v)", err, told)
	}
}

// Who has interrupted it need not be told what is wrong with the catalog.
func TestInterruptedReading(t *testing.T) {
	source, asked := silent(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, _, err := (&Set{Sources: []string{source}}).Find(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestSources(t *testing.T) {
	for _, good := range []string{"/srv/c.json", "file:///srv/c.json", "https://x.example/c.json", "http://127.0.0.1:80/c", "http://[::1]/c", "http://localhost/c"} {
		if err := CheckSource(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "c.json", "http://x.example/c.json", "http://127.0.0.1.x.example/", "ftp://x/", "file://host/x", "https://", "http:///x"} {
		if err := CheckSource(bad); err == nil {
			t.Errorf("%s passes", bad)
		}
	}
}

func TestWhereBundlesAre(t *testing.T) {
	for _, test := range []struct{ source, ref, want string }{
		{"/srv/c.json", "a.zst", "file:///srv/a.zst"},
		{"https://x.example/i/c.json", "a.zst", "https://x.example/i/a.zst"},
		{"https://x.example/i/c.json", "https://y.example/a.zst", "https://y.example/a.zst"},
		{"https://x.example/i/c.json", "http://y.example/a.zst", ""},
		{"https://x.example/i/c.json", "file:///etc/shadow", ""},
		{"http://127.0.0.1/c.json", "file:///etc/shadow", ""},
	} {
		if got, err := Resolve(test.source, test.ref); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s in %s: %q, %v", test.ref, test.source, got, err)
		}
	}
}

func TestRedirects(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/c.json", http.StatusFound)
	}))
	defer server.Close()
	if _, err := Open(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "must be https") {
		t.Errorf("got %v", err)
	}
}

func TestBadCatalogs(t *testing.T) {
	text := func(f File) string { b, _ := json.Marshal(f); return string(b) }
	with := func(change func(*Entry)) string {
		e := bundled("a")
		change(&e)
		return text(File{Format: 1, Images: []Entry{e}})
	}
	debian := Entry{Name: "d", Type: TypeDebian, Suites: []string{"bookworm"}, Packages: []string{"bash"}}
	for name, bad := range map[string]string{
		"no JSON":           "<html>",
		"no format":         "{}",
		"a newer format":    `{"format": 2}`,
		"a name twice":      text(File{Format: 1, Images: []Entry{bundled("a"), bundled("a")}}),
		"a name of a path":  with(func(e *Entry) { e.Name = "../a" }),
		"no hash":           with(func(e *Entry) { e.SHA256 = "" }),
		"no size":           with(func(e *Entry) { e.Size = 0 }),
		"no place":          with(func(e *Entry) { e.URL = "" }),
		"no processor":      with(func(e *Entry) { e.Arch = "" }),
		"a kernel's path":   with(func(e *Entry) { e.Kernel = "../k" }),
		"an unknown type":   with(func(e *Entry) { e.Type = "iso" }),
		"a floating tag":    text(File{Format: 1, Images: []Entry{{Name: "o", Type: TypeOCI, Reference: "docker.io/library/alpine:3.20"}}}),
		"a tool":            with(func(e *Entry) { *e = debian; e.Tools = []Tool{{Name: "x"}} }),
		"a package's path":  with(func(e *Entry) { *e = debian; e.Packages = []string{"--force"} }),
		"a suite's address": with(func(e *Entry) { *e = debian; e.Suites = []string{"../x"} }),
	} {
		if _, err := Parse([]byte(bad)); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
	oci := Entry{Name: "o", Type: TypeOCI, Reference: "docker.io/library/alpine@sha256:" + strings.Repeat("b", 64)}
	if _, err := Parse([]byte(text(File{Format: 1, Images: []Entry{debian, oci, bundled("a")}}))); err != nil {
		t.Errorf("good ones: %v", err)
	}
}
