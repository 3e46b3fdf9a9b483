package image

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/killtest"
)

// making is a way to make an image in a store.
type making func(ctx context.Context) (Image, error)

// killAtEveryStep is [killtest.EveryStep] for an image of that name.
func killAtEveryStep(t *testing.T, name string, steps []string, arrange func() []string, open func(args []string) (*Store, making)) Image {
	t.Helper()
	return killtest.EveryStep(t, steps, arrange, func(args []string) killtest.Work[Image] {
		s, make := open(args)
		return killtest.Work[Image]{
			Make:    make,
			AtStep:  func(call func(string)) { s.AtStep = call },
			Missing: func(why string) { isMissing(t, s, name, why) },
			Whole: func(image Image) {
				if out, err := exec.Command("/sbin/e2fsck", "-fn", image.Rootfs).CombinedOutput(); err != nil {
					t.Errorf("e2fsck: %v\n%s", err, out)
				}
				nothingUnfinished(t, s)
				if err := s.Delete(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

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
