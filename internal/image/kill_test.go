package image

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/banger-vm/banger/internal/killtest"
)

// making is a way to make an image in a store.
type making func(ctx context.Context) (Image, error)

// killAtEveryStep kills, at each step by name, who makes an image, and then has the
// client go for whom it is made: there is no image then. The same again makes a
// whole one, and nothing is left beside it. Arrange gives what open needs, which is
// called in the process that is killed too.
func killAtEveryStep(t *testing.T, name string, steps []string, arrange func() []string, open func(args []string) (*Store, making)) Image {
	t.Helper()
	if v := killtest.Self(); v != nil {
		s, make := open(v.Args)
		s.AtStep = v.AtStep
		_, err := make(t.Context())
		v.Lives(t, err)
	}
	args := arrange()
	s, make := open(args)
	var image Image
	for _, step := range steps {
		killtest.Kill(t, step, args...)
		isMissing(t, s, name, "killed at "+step)
		ctx, atStep := killtest.Gone(t, step)
		s.AtStep = atStep
		if _, err := make(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("its client went at %q: %v", step, err)
		}
		isMissing(t, s, name, "its client went at "+step)
		nothingUnfinished(t, s)
		var went []string
		s.AtStep = func(at string) { went = append(went, at) }
		var err error
		if image, err = make(t.Context()); err != nil {
			t.Fatalf("after %q: %v", step, err)
		}
		if !slices.Equal(sorted(went), sorted(steps)) {
			t.Errorf("it goes through %q, the list has %q", went, steps)
		}
		if out, err := exec.Command("/sbin/e2fsck", "-fn", image.Rootfs).CombinedOutput(); err != nil {
			t.Errorf("after %q: e2fsck: %v\n%s", step, err, out)
		}
		nothingUnfinished(t, s)
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// sorted is for steps two of which may begin at once.
func sorted(steps []string) []string { return slices.Sorted(slices.Values(steps)) }

func isMissing(t *testing.T, s *Store, name, why string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(s.Dir, name)); err == nil {
		t.Fatalf("%s: there is an image", why)
	}
}

func nothingUnfinished(t *testing.T, s *Store) {
	t.Helper()
	if left := unfinished(t, s); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// unfinished is what work that is under way, or was killed, has in a store.
func unfinished(t *testing.T, s *Store) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(s.Dir, tempPrefix("*")+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}
