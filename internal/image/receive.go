package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image/oci"
	"github.com/banger-vm/banger/internal/progress"
)

// StepReceive comes first when an image is received.
const StepReceive = "receiving the container image"

// ReceiveSteps are the steps of receiving a container image, in their order.
var ReceiveSteps = []string{StepReceive, oci.StepResolve, StepSpace, oci.StepUnpack, StepKeep}

// Writer writes an archive like that of `docker save` to w.
type Writer func(ctx context.Context, w io.Writer) error

// CheckNew refuses a name that no new image can have. Errors carry an
// *api.Error: bad-request or exists.
func (s *Store) CheckNew(ctx context.Context, name string) error {
	if err := s.checkName(ctx, name); err != nil {
		return err
	}
	return s.checkFree(name)
}

// Receive is Pull of an archive that is not in a file: write gives it. req
// names neither a reference nor an archive. Whoever writes is a stranger: the
// archive can't be larger than what it may unpack to, nor fill the disk.
func (s *Store) Receive(ctx context.Context, req api.PullImage, write Writer, report progress.Func) (Image, error) {
	if err := s.checkName(ctx, req.Name); err != nil {
		return Image{}, err
	}
	unlock, err := s.lock(ctx, req.Name, report)
	if err != nil {
		return Image{}, err
	}
	defer unlock()
	p := &pull{store: s, name: req.Name, req: req, report: oneAtATime(report)}
	defer p.close()
	if err := s.checkFree(req.Name); err != nil {
		return Image{}, err
	}
	if err := p.receive(ctx, write); err != nil {
		return Image{}, fmt.Errorf("cannot receive image %s: %w", req.Name, p.explain(err))
	}
	if err := p.make(ctx); err != nil {
		return Image{}, fmt.Errorf("cannot receive image %s: %w", req.Name, err)
	}
	return s.local(req.Name)
}

// receive has the archive written into a file without a name, and finds the
// image in it. Its manifest comes last and says in which order the layers are.
func (p *pull) receive(ctx context.Context, write Writer) (err error) {
	p.step(StepReceive)
	file, err := os.CreateTemp(p.store.Dir, tempPrefix(p.name))
	if err != nil {
		return fmt.Errorf("cannot make a file for the archive: %w", err)
	}
	if err := os.Remove(file.Name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, file.Close())
	}
	if err := write(ctx, &spool{pull: p, file: file}); err != nil {
		return errors.Join(err, file.Close())
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	p.step(oci.StepResolve)
	if p.archive, err = oci.ReadArchive(file, "what came"); err != nil {
		return err
	}
	p.image, err = p.archive.Resolve("", p.req.Platform)
	return err
}

const (
	// spoolReserve is how much of the disk an archive must leave free.
	spoolReserve = 256 << 20
	// lookEvery is how many bytes come between two looks at the disk.
	lookEvery = 16 << 20
)

// spool takes an archive as long as there is room for it.
type spool struct {
	pull   *pull
	file   *os.File
	have   int64
	looked int64 // up to where room was found
}

func (s *spool) Write(b []byte) (int, error) {
	s.have += int64(len(b))
	if limit := s.pull.limit(); s.have > limit {
		return 0, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("its archive has more than %d MiB", limit>>20), Hint: "if you trust it, allow more with --max-size"}
	}
	if s.have > s.looked {
		s.looked = s.have + lookEvery
		if err := s.pull.store.checkRoom(s.pull.name, lookEvery+spoolReserve); err != nil {
			return 0, err
		}
		s.pull.report(progress.Event{Step: StepReceive, Done: s.have})
	}
	return s.file.Write(b)
}
