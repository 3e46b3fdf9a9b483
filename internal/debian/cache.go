package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/filelock"
	"github.com/banger-vm/banger/internal/progress"
)

// A file of the cache is named by its SHA-256. While it comes it is
// "<sha256>.part", locked by who fetches it: a second process, or goroutine,
// waits for that lock and then finds the file. What a killed process left is
// resumed.

// file gives the path in dir of the file that want describes, fetched from the
// first of urls that has it. got, when not nil, is told of each piece.
func (f *fetcher) file(ctx context.Context, dir string, urls []string, want digest, got func(int)) (string, error) {
	if got == nil {
		got = func(int) {}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the download cache: %w", err)
	}
	path := filepath.Join(dir, want.sha256)
	if matches(path, want) {
		got(int(want.size))
		return path, nil
	}
	part, err := filelock.WaitNamed(ctx, path+".part")
	if err != nil {
		return "", fmt.Errorf("cannot use the download cache: %w", err)
	}
	defer part.Close()
	if matches(path, want) { // another one fetched it meanwhile
		got(int(want.size))
		os.Remove(part.Name())
		return path, nil
	}
	if err := f.fill(ctx, part, urls, want, got); err != nil {
		return "", err
	}
	if err := os.Rename(part.Name(), path); err != nil {
		return "", fmt.Errorf("cannot keep a download: %w", err)
	}
	return path, nil
}

// matches tells whether the file at path is whole and right.
func matches(path string, want digest) bool {
	file, err := os.Open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(file, want.size+1))
	return err == nil && n == want.size && hex.EncodeToString(sum.Sum(nil)) == want.sha256
}

// fill completes part from the first of urls that has the file.
func (f *fetcher) fill(ctx context.Context, part *os.File, urls []string, want digest, got func(int)) error {
	var err error
	for _, address := range urls {
		if err = f.transfer(ctx, part, address, want, got); !isAbsent(err) {
			return err
		}
	}
	return err
}

// transfer completes part from one address. What is wrong though it came whole
// in one piece is refused; what was put together of pieces is fetched anew
// once, since the pieces may be of two versions.
func (f *fetcher) transfer(ctx context.Context, part *os.File, address string, want digest, got func(int)) error {
	sum := sha256.New()
	have, err := resume(part, sum, want)
	if err != nil {
		return err
	}
	got(int(have))
	pieces := have > 0
	err = f.retry(ctx, maxAttempts, func(ctx context.Context) error {
		if have < want.size {
			n, err := f.piece(ctx, part, sum, address, have, want, got)
			if n != have {
				pieces = pieces || n > have && have > 0
				have = n
			}
			if err != nil {
				pieces = pieces || have > 0
				return err
			}
		}
		if have == want.size && hex.EncodeToString(sum.Sum(nil)) == want.sha256 {
			return nil
		}
		got(-int(have))
		have = 0
		if err := restart(part, sum); err != nil {
			return err
		}
		wrong := errors.New("size or SHA-256 is not what the signed index says")
		if pieces {
			pieces = false
			return wrong
		}
		return untrusted(wrong)
	})
	if err != nil {
		return fetchError(ctx, address, err)
	}
	return nil
}

// resume hashes what part holds already; too much of it is thrown away.
func resume(part *os.File, sum hash.Hash, want digest) (int64, error) {
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	have, err := io.Copy(sum, io.LimitReader(part, want.size+1))
	if err != nil {
		return 0, fmt.Errorf("cannot read a started download: %w", err)
	}
	if have > want.size {
		return 0, restart(part, sum)
	}
	return have, nil
}

// restart empties part.
func restart(part *os.File, sum hash.Hash) error {
	sum.Reset()
	if err := part.Truncate(0); err != nil {
		return err
	}
	_, err := part.Seek(0, io.SeekStart)
	return err
}

// piece appends what one request gives, and says how much there is then.
func (f *fetcher) piece(ctx context.Context, part *os.File, sum hash.Hash, address string, have int64, want digest, got func(int)) (int64, error) {
	body, from, err := f.get(ctx, address, have)
	if err != nil {
		return have, err
	}
	defer body.Close()
	if from != have {
		got(-int(have))
		if err := restart(part, sum); err != nil {
			return 0, err
		}
	}
	n, err := io.Copy(io.MultiWriter(part, sum, counter(got)), io.LimitReader(body, want.size-from+1))
	have = from + n
	if err == nil && have < want.size {
		err = io.ErrUnexpectedEOF
	}
	return have, err
}

// counter tells a function how much was written.
type counter func(int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}

// debs fetches packages side by side, each file once.
func (f *fetcher) debs(ctx context.Context, packages []Package, report progress.Func) ([]string, error) {
	paths := make([]string, len(packages))
	tally := newTally("downloading packages", packages, report)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, p := range packages {
		group.Go(func() error {
			path, err := f.file(ctx, debDir(f.cache), []string{p.base + "/" + p.Filename}, digest{p.Size, p.SHA256}, tally.add)
			paths[i] = path
			if err != nil {
				return fmt.Errorf("package %s: %w", p.Name, err)
			}
			return nil
		})
	}
	return paths, group.Wait()
}

// tally adds up the bytes of transfers and reports them, one at a time.
type tally struct {
	mu       sync.Mutex
	event    progress.Event
	reported int64
	report   progress.Func
}

func newTally(step string, packages []Package, report progress.Func) *tally {
	t := &tally{event: progress.Event{Step: step, Detail: fmt.Sprintf("%d packages", len(packages))}, report: report}
	for _, p := range packages {
		t.event.Total += p.Size
	}
	report(t.event)
	return t
}

// add reports each percent, not each packet.
func (t *tally) add(n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.event.Done += int64(n)
	if t.event.Done-t.reported >= t.event.Total/100 || t.event.Done == t.event.Total {
		t.reported = t.event.Done
		t.report(t.event)
	}
}
