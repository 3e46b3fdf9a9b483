package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/api"
)

// Tag gives a local image a second name. Both share the one file, on the disk
// and in memory; the file goes with the last of them. Errors carry an
// *api.Error: not-found, bad-request, exists or wrong-state.
func (s *Store) Tag(ctx context.Context, name, second string) (Image, error) {
	image, err := s.Get(ctx, name)
	if err != nil {
		return Image{}, err
	}
	if !image.Local {
		return Image{}, notHere(name)
	}
	if err := s.checkName(ctx, second); err != nil {
		return Image{}, err
	}
	unlock, err := s.lock(ctx, second, nil)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	r, err := s.readRecord(name)
	if err != nil {
		return Image{}, err
	}
	if err := s.checkFree(second); err != nil {
		return Image{}, err
	}
	r.Name, r.Created = second, time.Now().UTC()
	if err := s.linkAs(ctx, r, image); err != nil {
		return Image{}, fmt.Errorf("cannot tag image %s: %w", name, err)
	}
	return s.local(second)
}

// linkAs makes the image of r, which has the file of another.
func (s *Store) linkAs(ctx context.Context, r record, of Image) error {
	temp, err := os.MkdirTemp(s.Dir, tempPrefix(r.Name))
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	result := filepath.Join(temp, "image")
	if err := os.Mkdir(result, 0o755); err != nil {
		return err
	}
	if of.Managed {
		if err := os.Link(of.Rootfs, filepath.Join(result, rootfsFile)); err != nil {
			return err
		}
	}
	return s.publish(ctx, result, r)
}

// notHere is an image that only a catalog has.
func notHere(name string) error {
	return &api.Error{
		Kind: api.KindWrongState, Message: fmt.Sprintf("image %s is not on this host yet", name),
		Hint: fmt.Sprintf("`banger image pull %s` gets it", name),
	}
}
