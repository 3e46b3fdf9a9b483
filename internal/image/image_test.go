package image

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/ext4"
	"github.com/banger-vm/banger/internal/progress"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	return &Store{Dir: filepath.Join(t.TempDir(), "images"), Cache: t.TempDir()}
}

// filesystem makes a small ext4 file.
func filesystem(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs.ext4")
	tree := t.TempDir()
	if err := (ext4.Mke2fs{}).Build(t.Context(), tree, path, ext4.Options{Size: 512 << 20}); err != nil {
		t.Fatal(err)
	}
	return path
}

func kindOf(err error) api.Kind {
	var e *api.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

func TestValidName(t *testing.T) {
	for _, good := range []string{"a", "base", "debian-bookworm", "alpine-3.20", "0x", strings.Repeat("a", 63)} {
		if !validName(good) {
			t.Errorf("%q is refused", good)
		}
	}
	for _, bad := range []string{"", ".", "..", "-a", "a-", "a..b", ".a", "a.", "A", "a b", "a/b", "a_b", "ä", strings.Repeat("a", 64)} {
		if validName(bad) {
			t.Errorf("%q passes", bad)
		}
	}
}

func TestRegister(t *testing.T) {
	s, rootfs := newStore(t), filesystem(t)
	image, err := s.Register(t.Context(), "base", rootfs, "generic-6.12")
	if err != nil {
		t.Fatal(err)
	}
	if image.Managed || !image.Local || image.Rootfs != rootfs || image.Size != 512<<20 || image.Kernel != "generic-6.12" || image.Source != SourceRegistered {
		t.Errorf("got %+v", image)
	}
	if got, err := s.Ensure(t.Context(), "base", progress.Discard); err != nil || !reflect.DeepEqual(got, image) {
		t.Errorf("Ensure: %+v, %v", got, err)
	}
	if _, err := s.Register(t.Context(), "base", rootfs, ""); kindOf(err) != api.KindExists {
		t.Errorf("twice: %v", err)
	}
	all, err := s.List()
	if err != nil || len(all) != 3 || all[0].Name != "base" || all[1].Name != "debian-bookworm" || all[1].Local {
		t.Errorf("list: %+v, %v", all, err)
	}
	if err := s.Delete(t.Context(), "base"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(rootfs); err != nil {
		t.Errorf("the file went with the image: %v", err)
	}
	if _, err := s.Get(t.Context(), "base"); kindOf(err) != api.KindNotFound {
		t.Errorf("after delete: %v", err)
	}
}

func TestRegisterRefuses(t *testing.T) {
	rootfs := filesystem(t)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("hello\n", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		name, rootfs string
		kind         api.Kind
	}{
		"a bad name":        {"../x", rootfs, api.KindBadRequest},
		"upper case":        {"Base", rootfs, api.KindBadRequest},
		"a catalog name":    {"debian-bookworm", rootfs, api.KindExists},
		"a relative path":   {"base", "fs.ext4", api.KindBadRequest},
		"a path with dots":  {"base", filepath.Dir(rootfs) + "/../x", api.KindBadRequest},
		"an absent file":    {"base", rootfs + "x", api.KindBadRequest},
		"a directory":       {"base", filepath.Dir(rootfs), api.KindBadRequest},
		"a text":            {"base", text, api.KindBadRequest},
		"a file for a tree": {"base", rootfs + "/x", api.KindBadRequest},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			_, err := s.Register(t.Context(), test.name, test.rootfs, "")
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != test.kind || e.Hint == "" {
				t.Errorf("got %v", err)
			}
			if left, _ := os.ReadDir(s.Dir); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestUnknownImage(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"no-such", "../etc", ""} {
		_, err := s.Ensure(t.Context(), name, progress.Discard)
		var e *api.Error
		if !errors.As(err, &e) || e.Kind != api.KindNotFound || !strings.Contains(e.Hint, "debian-bookworm") {
			t.Errorf("%q: %v", name, err)
		}
		if err := s.Delete(t.Context(), name); kindOf(err) != api.KindNotFound {
			t.Errorf("delete %q: %v", name, err)
		}
	}
	if err := s.Delete(t.Context(), "debian-bookworm"); kindOf(err) != api.KindNotFound {
		t.Errorf("delete of what is in the catalog only: %v", err)
	}
}

// manage puts an image into the store as a build does.
func manage(t *testing.T, s *Store, name string) {
	t.Helper()
	dir := filepath.Join(s.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filesystem(t), filepath.Join(dir, rootfsFile)); err != nil {
		t.Fatal(err)
	}
	putRecord(t, dir, record{Name: name, Source: SourceCatalog, Kernel: "k", MaxDisk: ext4.MaxDisk, Config: Config{WorkingDir: "/srv"}})
}

func putRecord(t *testing.T, dir string, r record) {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, recordFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestManagedImage(t *testing.T) {
	s := newStore(t)
	manage(t, s, "debian-bookworm")
	image, err := s.Ensure(t.Context(), "debian-bookworm", progress.Discard)
	if err != nil || !image.Managed || image.Rootfs != filepath.Join(s.Dir, "debian-bookworm", rootfsFile) || image.MaxDisk != ext4.MaxDisk {
		t.Errorf("got %+v, %v", image, err)
	}
	if image.Used >= image.Size || image.Used == 0 {
		t.Errorf("it takes %d of %d bytes", image.Used, image.Size)
	}
	if err := s.Delete(t.Context(), "debian-bookworm"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(t.Context(), "debian-bookworm"); err != nil || got.Local {
		t.Errorf("after delete: %+v, %v", got, err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.Dir, "[^.]*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// What a bundle says of its filesystem counts only as far as Linux agrees.
func TestHowFarAFilesystemGrows(t *testing.T) {
	s := newStore(t)
	manage(t, s, "base")
	rootfs, err := os.OpenFile(filepath.Join(s.Dir, "base", rootfsFile), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer rootfs.Close()
	const sparseSuper2At = 1024 + 0x5d // the bit 0x200 of the compatible features
	if _, err := rootfs.WriteAt([]byte{0x02}, sparseSuper2At); err != nil {
		t.Fatal(err)
	}
	for _, said := range []int64{0, -1, ext4.MaxDisk} {
		putRecord(t, filepath.Join(s.Dir, "base"), record{Name: "base", Source: SourceBundle, Kernel: "k", MaxDisk: said})
		if got, err := s.Get(t.Context(), "base"); err != nil || got.MaxDisk != got.Size {
			t.Errorf("said to grow to %d: %+v, %v", said, got, err)
		}
	}
}

func TestBrokenImages(t *testing.T) {
	tests := map[string]func(dir string) error{
		"no file":        func(dir string) error { return os.Remove(filepath.Join(dir, rootfsFile)) },
		"a file cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, rootfsFile), 1<<20) },
		"a bad record":   func(dir string) error { return os.WriteFile(filepath.Join(dir, recordFile), []byte("{"), 0o600) },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			manage(t, s, "debian-bookworm")
			if err := spoil(filepath.Join(s.Dir, "debian-bookworm")); err != nil {
				t.Fatal(err)
			}
			_, err := s.Ensure(t.Context(), "debian-bookworm", progress.Discard)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.KindHost || !strings.Contains(e.Hint, "image delete debian-bookworm") {
				t.Errorf("got %v", err)
			}
			all, err := s.List()
			if err != nil || len(all) != 2 || all[0].Source != api.ImageBroken || !strings.Contains(all[0].Detail, "broken") {
				t.Errorf("list: %+v, %v", all, err)
			}
			if err := s.Delete(t.Context(), "debian-bookworm"); err != nil {
				t.Errorf("delete: %v", err)
			}
		})
	}
}

// TestUnfinishedIsRemoved: who takes the lock removes what a killed one left,
// of this image and no other.
func TestUnfinishedIsRemoved(t *testing.T) {
	s := newStore(t)
	for _, name := range []string{"base", "base-2"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, tempPrefix(name)+"123", "tree", "etc"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Register(t.Context(), "base", filesystem(t), ""); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(s.Dir, ".unfinished-*"))
	if len(left) != 1 || !strings.Contains(left[0], "base-2~") {
		t.Errorf("left: %v", left)
	}
}

func TestNoSpace(t *testing.T) {
	s := newStore(t)
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if err := s.checkRoom("huge", 1<<60); !errors.As(err, &e) || e.Kind != api.KindNoSpace || !strings.Contains(e.Message, "MiB free") {
		t.Errorf("got %v", err)
	}
	if err := s.checkRoom("small", 1); err != nil {
		t.Errorf("with enough: %v", err)
	}
}

func TestTag(t *testing.T) {
	s := newStore(t)
	manage(t, s, "debian-bookworm")
	rootfs := filesystem(t)
	if _, err := s.Register(t.Context(), "mine", rootfs, "k"); err != nil {
		t.Fatal(err)
	}
	for from, second := range map[string]string{"debian-bookworm": "mark", "mine": "yours"} {
		before, err := s.Get(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Tag(t.Context(), from, second)
		if err != nil || got.Name != second || got.Kernel != before.Kernel || got.MaxDisk != before.MaxDisk || got.Managed != before.Managed {
			t.Fatalf("%+v, %v", got, err)
		}
		a, err1 := os.Stat(before.Rootfs)
		b, err2 := os.Stat(got.Rootfs)
		if err1 != nil || err2 != nil || !os.SameFile(a, b) {
			t.Errorf("%s and %s are two files", from, second)
		}
		if err := s.Delete(t.Context(), from); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Ensure(t.Context(), second, progress.Discard); err != nil {
			t.Errorf("%s, when %s is gone: %v", second, from, err)
		}
	}
	for name, second := range map[string]string{"mark": "yours", "none": "x", "debian-trixie": "x", "yours": "debian-bookworm"} {
		if _, err := s.Tag(t.Context(), name, second); kindOf(err) == "" {
			t.Errorf("tag %s %s: %v", name, second, err)
		}
	}
}

func TestRegisteredFileThatChanged(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"gone":    os.Remove,
		"touched": func(path string) error { now := time.Now().Add(time.Minute); return os.Chtimes(path, now, now) },
		"grown":   func(path string) error { return os.Truncate(path, 1<<30) },
	} {
		t.Run(name, func(t *testing.T) {
			s, rootfs := newStore(t), filesystem(t)
			if _, err := s.Register(t.Context(), "mine", rootfs, ""); err != nil {
				t.Fatal(err)
			}
			if err := s.Check("mine"); err != nil {
				t.Fatal(err)
			}
			if err := change(rootfs); err != nil {
				t.Fatal(err)
			}
			for what, err := range map[string]error{"Check": s.Check("mine"), "Get": func() error { _, err := s.Get(t.Context(), "mine"); return err }()} {
				if kindOf(err) != api.KindHost || !strings.Contains(err.Error(), rootfs) {
					t.Errorf("%s: %v", what, err)
				}
			}
			if err := s.Delete(t.Context(), "mine"); err != nil {
				t.Error(err)
			}
		})
	}
}
