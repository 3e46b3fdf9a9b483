package initramfs

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"
)

func contents(t *testing.T) Contents {
	t.Helper()
	dir := t.TempDir()
	file := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	return Contents{
		Init:  file("banger-init", "the init"),
		Agent: file("banger-vsock-agent", "the agent, longer"),
		Modules: []Module{
			{Path: file("a.ko", "module a"), Name: "virtio_mmio.ko"},
			{Path: file("b.ko", ""), Name: "virtio_blk.ko", Deps: []string{"virtio_mmio.ko"}},
		},
	}
}

// read lists an archive as an independent reader sees it.
func read(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	found := map[string]string{}
	r := cpio.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = h.Mode.String() + " " + string(data)
	}
}

func TestWriteGivesWhatAReaderFinds(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, contents(t)); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"dev":                    "40755 ",
		"proc":                   "40755 ",
		"sys":                    "40755 ",
		"run":                    "40755 ",
		"mnt":                    "40755 ",
		"modules":                "40755 ",
		"dev/console":            "20600 ",
		"init":                   "100755 the init",
		"agent":                  "100755 the agent, longer",
		"modules/order":          "100644 virtio_mmio.ko\nvirtio_blk.ko virtio_mmio.ko\n",
		"modules/virtio_mmio.ko": "100644 module a",
		"modules/virtio_blk.ko":  "100644 ",
	}
	got := read(t, out.Bytes())
	if len(got) != len(want) {
		t.Errorf("found %d entries, want %d", len(got), len(want))
	}
	for name, entry := range want {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		} else if !sameContent(got[name], entry) {
			t.Errorf("%s is %q, want %q", name, got[name], entry)
		}
	}
}

// sameContent compares what follows the mode, whose text is the reader's own.
func sameContent(got, want string) bool {
	_, a, _ := bytes.Cut([]byte(got), []byte(" "))
	_, b, _ := bytes.Cut([]byte(want), []byte(" "))
	return bytes.Equal(a, b)
}

func TestWriteTwiceGivesTheSameBytes(t *testing.T) {
	c := contents(t)
	var first, second bytes.Buffer
	if err := errors.Join(Write(&first, c), Write(&second, c)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Bytes(), second.Bytes()); diff != "" {
		t.Error(diff)
	}
}

func TestWriteTellsWhatIsMissing(t *testing.T) {
	c := contents(t)
	c.Agent = filepath.Join(t.TempDir(), "none")
	if err := Write(io.Discard, c); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}
