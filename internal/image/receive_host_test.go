//go:build hosttest

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// saved makes an archive like that of `docker save`, of skopeo.
func saved(t *testing.T, layers ...[]byte) string {
	t.Helper()
	w := newWorkbench(t, "")
	w.layers("app", layers...)
	run(t, "umoci", "config", "--image", w.layout+":app", "--config.env", "COLOUR=green")
	file := filepath.Join(t.TempDir(), "app.tar")
	run(t, "skopeo", "copy", "-q", "oci:"+w.layout+":app", "docker-archive:"+file)
	return file
}

// from gives what is in a file.
func from(file string) Writer {
	return func(_ context.Context, w io.Writer) error {
		data, err := os.Open(file)
		if err != nil {
			return err
		}
		defer data.Close()
		_, err = io.Copy(w, data)
		return err
	}
}

// TestKillAtEveryStepOfReceiving: the next time gives a whole image.
func TestKillAtEveryStepOfReceiving(t *testing.T) {
	image := killAtEveryStep(t, "app", ReceiveSteps, func() []string {
		return []string{t.TempDir(), t.TempDir(), saved(t, legal(t)...)}
	}, func(args []string) (*Store, making) {
		s := &Store{Dir: args[0], Cache: args[1]}
		return s, func(ctx context.Context) (Image, error) {
			return s.Receive(ctx, api.PullImage{Name: "app", Kernel: "k"}, from(args[2]), progress.Discard)
		}
	})
	if image.Kernel != "k" || image.Source != SourceOCI || !slices.Contains(image.Config.Env, "COLOUR=green") {
		t.Errorf("got %+v", image)
	}
}

// TestReceivedFromAStranger: what a guest says instead of an image gives an
// error and leaves nothing.
func TestReceivedFromAStranger(t *testing.T) {
	file := saved(t, tarLayer(t, tarFile("text", strings.Repeat("all work and no play ", 200_000))))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	says := func(data []byte) Writer {
		return func(_ context.Context, w io.Writer) error { _, err := w.Write(data); return err }
	}
	endless := func(_ context.Context, w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
		}
	}
	refusal := errors.New("docker ended with status 1")
	for name, tt := range map[string]struct {
		name  string
		write Writer
		kind  api.Kind
		says  string
	}{
		"nothing":       {"x", says(nil), api.KindBadRequest, "holds no image"},
		"words":         {"x", says([]byte(strings.Repeat("hello ", 1000))), api.KindBadRequest, "no tar archive"},
		"half of it":    {"x", says(whole[:len(whole)/2]), api.KindBadRequest, "broken"},
		"another layer": {"x", says([]byte(strings.Replace(string(whole), "no play", "no plaY", 1))), api.KindUntrusted, "sha256"},
		"no end":        {"x", endless, api.KindBadRequest, "more than 8 MiB"},
		"a refusal":     {"x", func(context.Context, io.Writer) error { return refusal }, "", "ended with status 1"},
		"a catalog's":   {"debian-bookworm", endless, api.KindExists, "already"},
		"no name":       {"X", endless, api.KindBadRequest, "no name"},
	} {
		s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
		_, err := s.Receive(t.Context(), api.PullImage{Name: tt.name, MaxMiB: 8}, tt.write, progress.Discard)
		if kindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.Dir, "[^.]*")); len(left)+len(unfinished(t, s)) > 0 {
			t.Errorf("%s: left %v %v", name, left, unfinished(t, s))
		}
	}
}

// TestReceivingLeavesRoom: an archive does not fill the disk.
func TestReceivingLeavesRoom(t *testing.T) {
	s := &Store{Dir: t.TempDir(), Cache: t.TempDir()}
	if err := unix.Mount("tmpfs", s.Dir, "tmpfs", 0, fmt.Sprintf("size=%d", spoolReserve+2*lookEvery)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(s.Dir, unix.MNT_DETACH) })
	wrote := 0
	_, err := s.Receive(t.Context(), api.PullImage{Name: "app"}, func(_ context.Context, w io.Writer) error {
		for chunk := make([]byte, 1<<20); ; wrote++ {
			if _, err := w.Write(chunk); err != nil {
				return err
			}
		}
	}, progress.Discard)
	if kindOf(err) != api.KindNoSpace || wrote > 2*lookEvery>>20 {
		t.Errorf("after %d MiB: %v", wrote, err)
	}
}
