package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// published is a folder with the image "base" in it, served by HTTP.
type published struct {
	folder string
	server *httptest.Server
	spoil  func(http.ResponseWriter, *http.Request) bool // true: it has answered
}

func publish(t *testing.T) *published {
	t.Helper()
	maker := newStore(t)
	manage(t, maker, "base")
	p := &published{folder: t.TempDir()}
	if _, err := maker.Publish(t.Context(), "base", p.folder, progress.Discard); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(p.folder))
	p.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.spoil == nil || !p.spoil(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(p.server.Close)
	return p
}

// reader is an empty store that knows the folder.
func (p *published) reader(t *testing.T) *Store {
	t.Helper()
	s := newStore(t)
	s.Catalogs = &catalog.Set{Sources: []string{p.server.URL + "/" + catalog.FileName}}
	return s
}

// edit changes the catalog's first entry.
func (p *published) edit(t *testing.T, change func(*catalog.Entry)) {
	t.Helper()
	path := filepath.Join(p.folder, catalog.FileName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var f catalog.File
	if err := json.Unmarshal(text, &f); err != nil {
		t.Fatal(err)
	}
	change(&f.Images[0])
	if text, err = json.Marshal(f); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// empty checks that a store holds no image and no part of one.
func empty(t *testing.T, s *Store) {
	t.Helper()
	entries, _ := os.ReadDir(s.Dir)
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".lock") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

func TestPublishAndPull(t *testing.T) {
	p := publish(t)
	s := p.reader(t)
	var last progress.Event
	got, err := s.Ensure(t.Context(), "base", func(e progress.Event) {
		if e.Total > 0 {
			last = e
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got.Source != SourceBundle || !got.Managed || got.Kernel != "k" || got.Size != 512<<20 || got.Used >= 100<<20 || got.MaxDisk == 0 || got.Config.WorkingDir != "/srv" {
		t.Errorf("got %+v", got)
	}
	if last.Step != StepFetch || last.Done != last.Total {
		t.Errorf("the last progress was %+v", last)
	}
	if out, err := exec.Command("/sbin/e2fsck", "-fn", got.Rootfs).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
	if info, err := os.Stat(got.Rootfs); err != nil || info.Mode() != 0o444 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

func TestPublishAgain(t *testing.T) {
	p := publish(t)
	maker := newStore(t)
	manage(t, maker, "base")
	manage(t, maker, "base-two")
	for _, name := range []string{"base", "base-two"} {
		if _, err := maker.Publish(t.Context(), name, p.folder, progress.Discard); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(p.folder, catalog.FileName))
	if err != nil {
		t.Fatal(err)
	}
	f, err := catalog.Parse(text)
	if err != nil || len(f.Images) != 2 {
		t.Fatalf("%+v, %v", f, err)
	}
	bundles, _ := filepath.Glob(filepath.Join(p.folder, "*.tar.zst"))
	if len(bundles) != 2 {
		t.Errorf("the folder has %v", bundles)
	}
}

func TestWhereNothingCanBeWritten(t *testing.T) {
	s := newStore(t)
	manage(t, s, "base")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"export, no folder": func() error {
			_, err := s.Export(t.Context(), "base", filepath.Join(t.TempDir(), "none", "x"), progress.Discard)
			return err
		},
		"publish, a file": func() error { _, err := s.Publish(t.Context(), "base", file, progress.Discard); return err },
	} {
		err := do()
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindBadRequest || !strings.Contains(told.Hint, "name a folder that exists") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExport(t *testing.T) {
	s := newStore(t)
	manage(t, s, "base")
	file := filepath.Join(t.TempDir(), "x.tar.zst")
	for range 2 { // the second replaces the first
		e, err := s.Export(t.Context(), "base", file, progress.Discard)
		if err != nil || e.URL != "x.tar.zst" || e.Kernel != "k" || e.Type != catalog.TypeBundle {
			t.Fatalf("%+v, %v", e, err)
		}
		if info, err := os.Stat(file); err != nil || info.Size() != e.Size {
			t.Errorf("the file: %v, %v", info, err)
		}
	}
	if left, _ := os.ReadDir(filepath.Dir(file)); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
	if _, err := s.Export(t.Context(), "debian-bookworm", file, progress.Discard); kindOf(err) != api.KindWrongState {
		t.Errorf("what is in the catalog only: %v", err)
	}
	if _, err := s.Export(t.Context(), "none", file, progress.Discard); kindOf(err) != api.KindNotFound {
		t.Errorf("what is nowhere: %v", err)
	}
}

func TestBundlesThatCannotBe(t *testing.T) {
	isBundle := func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, ".zst") }
	var folder string
	tests := map[string]struct {
		kind  api.Kind
		edit  func(*catalog.Entry)
		spoil func(http.ResponseWriter, *http.Request) bool
	}{
		"another hash":      {api.KindUntrusted, func(e *catalog.Entry) { e.SHA256 = strings.Repeat("0", 64) }, nil},
		"another size":      {api.KindUntrusted, func(e *catalog.Entry) { e.Size-- }, nil},
		"another processor": {api.KindBadRequest, func(e *catalog.Entry) { e.Arch = "s390x" }, nil},
		"not there":         {api.KindNotFound, func(e *catalog.Entry) { e.URL = "none.zst" }, nil},
		"an error": {api.KindUnreachable, nil, func(w http.ResponseWriter, r *http.Request) bool {
			if isBundle(r) {
				w.WriteHeader(http.StatusBadGateway)
			}
			return isBundle(r)
		}},
		"cut off, and no way to take it up": {api.KindUnreachable, nil, func(w http.ResponseWriter, r *http.Request) bool {
			if isBundle(r) {
				bundles, _ := filepath.Glob(filepath.Join(folder, "*.zst"))
				data, _ := os.ReadFile(bundles[0])
				w.Header().Set("Content-Length", strconv.Itoa(len(data)))
				w.Write(data[:len(data)/2])
			}
			return isBundle(r)
		}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			p := publish(t)
			p.spoil, folder = test.spoil, p.folder
			if test.edit != nil {
				p.edit(t, test.edit)
			}
			s := p.reader(t)
			_, err := s.Ensure(t.Context(), "base", progress.Discard)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != test.kind || e.Hint == "" {
				t.Errorf("got %v", err)
			}
			empty(t, s)
		})
	}
}

// TestTakenUp serves a bundle in pieces, each connection a piece.
func TestTakenUp(t *testing.T) {
	p := publish(t)
	var pieces atomic.Int32
	p.spoil = func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, ".zst") || pieces.Add(1) > 3 {
			return false
		}
		panic(cutAfter(w, r, p.folder))
	}
	s := p.reader(t)
	if _, err := s.Ensure(t.Context(), "base", progress.Discard); err != nil {
		t.Fatal(err)
	}
	if pieces.Load() < 4 {
		t.Errorf("it came in %d pieces", pieces.Load())
	}
}

// cutAfter serves a kilobyte of what was asked for and gives the word to break
// the connection.
func cutAfter(w http.ResponseWriter, r *http.Request, folder string) any {
	http.FileServer(http.Dir(folder)).ServeHTTP(&short{ResponseWriter: w, left: 1 << 10}, r)
	return http.ErrAbortHandler
}

type short struct {
	http.ResponseWriter
	left int
}

func (s *short) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p[:min(len(p), s.left)])
	s.ResponseWriter.(http.Flusher).Flush()
	if s.left -= n; s.left == 0 {
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func TestInterruptedPull(t *testing.T) {
	p := publish(t)
	s := p.reader(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Ensure(ctx, "base", func(e progress.Event) {
		if e.Done > 0 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	empty(t, s)
}

func TestKillAtEveryStepOfAPull(t *testing.T) {
	killAtEveryStep(t, "base", []string{StepFetch, StepKeep}, func() []string {
		s := publish(t).reader(t)
		return []string{s.Dir, s.Catalogs.Sources[0]}
	}, func(args []string) (*Store, making) {
		s := &Store{Dir: args[0], Catalogs: &catalog.Set{Sources: args[1:]}}
		return s, func(ctx context.Context) (Image, error) { return s.Ensure(ctx, "base", progress.Discard) }
	})
}

func TestPullsShareTheWork(t *testing.T) {
	p := publish(t)
	var bundles atomic.Int32
	p.spoil = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".zst") {
			bundles.Add(1)
		}
		return false
	}
	s := p.reader(t)
	done := make(chan error)
	for range 4 {
		go func() {
			_, err := s.Ensure(t.Context(), "base", progress.Discard)
			done <- err
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if bundles.Load() != 1 {
		t.Errorf("it was fetched %d times", bundles.Load())
	}
}

func TestUnreadableCatalog(t *testing.T) {
	s := newStore(t)
	s.Catalogs = &catalog.Set{Sources: []string{"/no/such/catalog.json"}}
	if _, err := s.Get(t.Context(), "debian-bookworm"); err != nil {
		t.Errorf("what needs no other catalog: %v", err)
	}
	if _, err := s.Get(t.Context(), "other"); err == nil || !strings.Contains(err.Error(), "/no/such/catalog.json") || kindOf(err) != api.KindNotFound {
		t.Errorf("got %v", err)
	}
}

func TestNearestName(t *testing.T) {
	_, err := publish(t).reader(t).Get(t.Context(), "bsae")
	var e *api.Error
	if !errors.As(err, &e) || !strings.HasPrefix(e.Hint, "did you mean base?") || !strings.Contains(e.Hint, "debian-bookworm") {
		t.Errorf("got %#v", err)
	}
}

// TestDirtyBundle has a filesystem in it that was not unmounted.
func TestDirtyBundle(t *testing.T) {
	maker := newStore(t)
	manage(t, maker, "base")
	rootfs := filepath.Join(maker.Dir, "base", rootfsFile)
	spoilState(t, rootfs)
	if _, err := maker.Export(t.Context(), "base", filepath.Join(t.TempDir(), "x"), progress.Discard); kindOf(err) != api.KindHost {
		t.Errorf("exported: %v", err)
	}
	if _, err := newStore(t).Register(t.Context(), "mine", rootfs, ""); kindOf(err) != api.KindBadRequest || !strings.Contains(err.Error(), "not unmounted") {
		t.Errorf("registered: %v", err)
	}
}

// spoilState makes a filesystem look as if it was mounted.
func spoilState(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	state := make([]byte, 2)
	if _, err := file.ReadAt(state, 1024+0x3a); err != nil || !bytes.Equal(state, []byte{1, 0}) {
		t.Fatalf("its state is % x, %v", state, err)
	}
	if _, err := file.WriteAt([]byte{0, 0}, 1024+0x3a); err != nil {
		t.Fatal(err)
	}
}

func TestListings(t *testing.T) {
	all := publish(t).reader(t).Listings(t.Context())
	if len(all) != 2 || all[0].Source != catalog.Embedded || len(all[1].Entries) != 1 || all[1].Err != nil {
		t.Errorf("got %+v", all)
	}
	if !slices.ContainsFunc(all[0].Entries, func(e catalog.Entry) bool { return e.Name == "debian-trixie" }) {
		t.Error("debian-trixie is missing")
	}
}
