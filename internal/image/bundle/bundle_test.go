package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/api"
)

// sparse makes a file with data here and there.
func sparse(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fs")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	random := rand.NewChaCha8([32]byte{1})
	for _, at := range []int64{0, 1 << 20, 5<<20 + 4096, 40<<20 - 4096} {
		data := make([]byte, 4096)
		random.Read(data)
		if _, err := file.WriteAt(data, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	return path
}

func make1(t *testing.T, rootfs string) ([]byte, Want) {
	t.Helper()
	var packed bytes.Buffer
	want, err := Create(t.Context(), &packed, Manifest{Name: "small", Kernel: "k", Created: time.Unix(1, 0)}, rootfs, func(int64, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	return packed.Bytes(), want
}

func accept(Manifest) error { return nil }

func unpack(t *testing.T, packed io.Reader, want Want) (Manifest, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "out")
	m, err := Extract(t.Context(), packed, want, path, accept, func(int64) {})
	return m, path, err
}

func TestThereAndBack(t *testing.T) {
	rootfs := sparse(t)
	packed, want := make1(t, rootfs)
	m, path, err := unpack(t, bytes.NewReader(packed), want)
	if err != nil {
		t.Fatal(err)
	}
	if m.Name != "small" || m.Kernel != "k" || m.Size != 64<<20 || m.Arch != runtime.GOARCH || m.DataBytes > 1<<20 {
		t.Errorf("manifest: %+v", m)
	}
	before, _ := os.ReadFile(rootfs)
	after, _ := os.ReadFile(path)
	if !bytes.Equal(before, after) {
		t.Error("the filesystem is another one")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if used := info.Sys().(*syscall.Stat_t).Blocks * 512; used > 1<<20 {
		t.Errorf("it takes %d bytes: it is not sparse", used)
	}
}

func TestNotAsPromised(t *testing.T) {
	packed, want := make1(t, sparse(t))
	flipped := bytes.Clone(packed)
	flipped[len(flipped)/2] ^= 1
	other := want
	other.SHA256 = strings.Repeat("0", 64)
	shorter, longer := want, want
	shorter.Size--
	longer.Size++
	for name, test := range map[string]struct {
		packed []byte
		want   Want
	}{
		"a bit flipped":  {flipped, want},
		"another hash":   {packed, other},
		"cut off":        {packed[:len(packed)-100], want},
		"cut early":      {packed[:10], want},
		"nothing":        {nil, want},
		"text":           {[]byte(strings.Repeat("hello", 100)), want},
		"more than said": {packed, shorter},
		"less than said": {packed, longer},
		"a tail":         {append(bytes.Clone(packed), 1, 2, 3), Want{want.SHA256, want.Size + 3}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := unpack(t, bytes.NewReader(test.packed), test.want)
			var e *api.Error
			if !errors.As(err, &e) || e.Kind != api.KindUntrusted || e.Hint == "" {
				t.Errorf("got %v", err)
			}
		})
	}
}

// pack makes what no Create would, and what Extract is to find it to be.
func pack(t *testing.T, members ...any) ([]byte, Want) {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return packBy(t, z, members...)
}

// packBy packs with an encoder that may have been used before: a new one is
// dear.
func packBy(t *testing.T, z *zstd.Encoder, members ...any) ([]byte, Want) {
	t.Helper()
	var packed bytes.Buffer
	z.Reset(&packed)
	w := tar.NewWriter(z)
	for i := 0; i < len(members); i += 2 {
		var content []byte
		switch m := members[i+1].(type) {
		case Manifest:
			content, _ = json.Marshal(m)
		case []byte:
			content = m
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: members[i].(string), Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(packed.Bytes())
	return packed.Bytes(), Want{hex.EncodeToString(sum[:]), int64(packed.Len())}
}

func TestHostileBundles(t *testing.T) {
	fs := bytes.Repeat([]byte{7}, 8192)
	good := Manifest{Format: 1, Name: "x", Arch: runtime.GOARCH, Size: 8192, DataBytes: 8192}
	with := func(change func(*Manifest)) Manifest { m := good; change(&m); return m }
	for name, test := range map[string]struct {
		kind    api.Kind
		members []any
	}{
		"right":                {"", []any{ManifestName, good, RootfsName, fs}},
		"no filesystem":        {api.KindUntrusted, []any{ManifestName, good}},
		"filesystem first":     {api.KindUntrusted, []any{RootfsName, fs, ManifestName, good}},
		"a third member":       {api.KindUntrusted, []any{ManifestName, good, RootfsName, fs, "x", fs}},
		"a path":               {api.KindUntrusted, []any{ManifestName, good, "../" + RootfsName, fs}},
		"no JSON":              {api.KindUntrusted, []any{ManifestName, []byte("{"), RootfsName, fs}},
		"a large manifest":     {api.KindUntrusted, []any{ManifestName, bytes.Repeat([]byte(" "), maxManifest+1), RootfsName, fs}},
		"larger than it says":  {api.KindUntrusted, []any{ManifestName, with(func(m *Manifest) { m.Size, m.DataBytes = 4096, 4096 }), RootfsName, fs}},
		"smaller than it says": {api.KindUntrusted, []any{ManifestName, with(func(m *Manifest) { m.Size = 1 << 20 }), RootfsName, fs}},
		"more data":            {api.KindUntrusted, []any{ManifestName, with(func(m *Manifest) { m.DataBytes = 4096 }), RootfsName, fs}},
		"an absurd size":       {api.KindUntrusted, []any{ManifestName, with(func(m *Manifest) { m.Size = 1 << 60 }), RootfsName, fs}},
		"no format":            {api.KindUntrusted, []any{ManifestName, with(func(m *Manifest) { m.Format = 0 }), RootfsName, fs}},
		"a newer format":       {api.KindHost, []any{ManifestName, with(func(m *Manifest) { m.Format = 2 }), RootfsName, fs}},
		"another processor":    {api.KindBadRequest, []any{ManifestName, with(func(m *Manifest) { m.Arch = "s390x" }), RootfsName, fs}},
	} {
		t.Run(name, func(t *testing.T) {
			packed, want := pack(t, test.members...)
			_, _, err := unpack(t, bytes.NewReader(packed), want)
			var e *api.Error
			errors.As(err, &e)
			if test.kind == "" && err != nil || test.kind != "" && (e == nil || e.Kind != test.kind || e.Hint == "") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRefusedByTheCaller(t *testing.T) {
	packed, want := make1(t, sparse(t))
	no := errors.New("no room")
	path := filepath.Join(t.TempDir(), "out")
	_, err := Extract(t.Context(), bytes.NewReader(packed), want, path, func(Manifest) error { return no }, func(int64) {})
	if !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("it wrote although the caller said no")
	}
}

func TestInterrupted(t *testing.T) {
	packed, want := make1(t, sparse(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("enough")
	cancel(why)
	_, err := Extract(ctx, bytes.NewReader(packed), want, filepath.Join(t.TempDir(), "out"), accept, func(int64) {})
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
}

func FuzzExtract(f *testing.F) {
	f.Add([]byte("{}"), []byte{1}, true)
	f.Add([]byte(`{"format":1,"arch":"amd64","size_bytes":4096,"data_bytes":4096}`), bytes.Repeat([]byte{1}, 4096), true)
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		f.Fatal(err)
	}
	out := filepath.Join(f.TempDir(), "out")
	f.Fuzz(func(t *testing.T, manifest, rootfs []byte, tarred bool) {
		packed := manifest
		if tarred {
			packed, _ = packBy(t, z, ManifestName, manifest, RootfsName, rootfs)
		}
		sum := sha256.Sum256(packed)
		want := Want{hex.EncodeToString(sum[:]), int64(len(packed))}
		small := func(m Manifest) error {
			if m.DataBytes > 1<<20 || m.Size > 1<<24 {
				return errors.New("too large for a test")
			}
			return nil
		}
		m, err := Extract(t.Context(), bytes.NewReader(packed), want, out, small, func(int64) {})
		os.Remove(out) // not there when it was refused early
		if err == nil && m.Size != int64(len(rootfs)) {
			t.Errorf("it took %d bytes for %d", len(rootfs), m.Size)
		}
	})
}
