package oci

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/progress"
)

// Image is an image that was found, and whose layers can be had.
type Image struct {
	Reference string // what it was asked for by; empty for an archive's only one
	Digest    string // "sha256:…" of its manifest; of its configuration in a docker-save archive
	Platform  string // "linux/amd64"
	Created   time.Time
	Config    Config
	Layers    []Layer // bottom-up
	Missing   int64   // bytes that must be downloaded first

	download func(ctx context.Context, report progress.Func) error // nil: all is there
	drop     func(digest string) error                             // forgets a blob that is not what it should be
}

// Size is how many bytes its layers take as they are stored.
func (i *Image) Size() int64 {
	var sum int64
	for _, l := range i.Layers {
		sum += l.Size
	}
	return sum
}

// Unpack lays the image down in an empty filesystem, which holds whatever when
// that fails. limit bounds the bytes of the layers, decompressed, and those of
// the files in them. Layers are downloaded at the same time, and the digests of
// all that is used are checked. atStep is called as a step begins, from one of
// two goroutines. Errors of the image are [ErrBadImage] or carry an *api.Error;
// those of fs come as they are.
func (i *Image) Unpack(ctx context.Context, fs Filesystem, limit int64, atStep func(string), report progress.Func) error {
	group, ctx := errgroup.WithContext(ctx)
	downloaded := make(chan struct{})
	group.Go(func() error {
		defer close(downloaded)
		if i.download == nil {
			return nil
		}
		atStep(StepDownload)
		return i.download(ctx, report)
	})
	group.Go(func() error {
		atStep(StepUnpack)
		return i.layDown(ctx, fs, limit, func(e progress.Event) {
			select {
			case <-downloaded:
				report(e)
			default: // the download is what one waits for
			}
		})
	})
	return group.Wait()
}

// layDown applies the layers in turn. Each is being decompressed already while
// the one below it is applied.
func (i *Image) layDown(ctx context.Context, fs Filesystem, limit int64, report progress.Func) error {
	u := newUnpacker(fs, limit)
	if err := fs.Mkdir("", Attr{Mode: defaultDir, Mtime: i.Created}); err != nil {
		return err
	}
	var next *layerStream
	defer func() {
		if next != nil {
			next.Close()
		}
	}()
	var before int64
	for n, layer := range i.Layers {
		current := next
		if current == nil {
			current = layer.stream(ctx)
		}
		next = nil
		if n+1 < len(i.Layers) {
			next = i.Layers[n+1].stream(ctx)
		}
		current.moved = func(done int64) {
			report(progress.Event{Step: StepUnpack, Done: before + done, Total: i.Size()})
		}
		err := u.apply(current)
		current.Close()
		if err != nil {
			return i.explainLayer(layer, n, err)
		}
		before += layer.Size
	}
	return nil
}

// explainLayer says which layer it was. A cached one with a wrong digest is
// dropped, so that the next pull fetches it anew.
func (i *Image) explainLayer(l Layer, n int, err error) error {
	var wrong *digestError
	if errors.As(err, &wrong) && i.drop != nil && l.Digest != "" {
		err = errors.Join(err, i.drop(l.Digest))
	}
	return fmt.Errorf("layer %d of %d: %w", n+1, len(i.Layers), err)
}
