package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/filelock"
)

// Cache keeps blobs by digest: Dir/sha256/<hex>, and <hex>.partial for what has
// come of one so far. A blob gets its name when its digest is right. Any number
// of processes may use one directory, and whatever is in it may be deleted at
// any time: it is fetched again.
type Cache struct{ Dir string }

// source gives a blob from offset on, and says from where it really begins.
type source func(ctx context.Context, offset int64) (body io.ReadCloser, from int64, err error)

// How often a transfer is taken up again: attempts in a row that brought
// nothing.
const (
	maxIdleAttempts = 5
	firstPause      = 250 * time.Millisecond
)

func (c Cache) path(digest string) string {
	return filepath.Join(c.Dir, "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// Holds tells whether a blob is there, whole.
func (c Cache) Holds(digest string, size int64) bool {
	info, err := os.Stat(c.path(digest))
	return err == nil && info.Size() == size
}

// Drop forgets a blob.
func (c Cache) Drop(digest string) error {
	if err := os.Remove(c.path(digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot drop a cached layer: %w", err)
	}
	return nil
}

// ensure makes the cache hold a blob: what has come earlier is kept, the rest
// comes from get. grown is told of bytes that need not come any more.
func (c Cache) ensure(ctx context.Context, digest string, size int64, get source, grown func(int64)) error {
	if c.Holds(digest, size) {
		grown(size)
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.path(digest)), 0o755); err != nil {
		return fmt.Errorf("cannot make the cache of layers: %w", err)
	}
	t := &transfer{cache: c, digest: digest, size: size, get: get, grown: grown}
	var err error
	if t.file, err = filelock.WaitNamed(ctx, t.partial()); err != nil {
		return fmt.Errorf("cannot open the cache of layers: %w", err)
	}
	defer t.file.Close()
	if c.Holds(digest, size) { // another process was faster
		grown(size)
		os.Remove(t.partial())
		return nil
	}
	return t.run(ctx)
}

// transfer is a blob on its way into the cache.
type transfer struct {
	cache  Cache
	digest string
	size   int64
	get    source
	grown  func(int64)

	file *os.File // locked
	sum  hash.Hash
	have int64
}

func (t *transfer) partial() string { return t.cache.path(t.digest) + ".partial" }

// run brings the rest and gives the blob its name.
func (t *transfer) run(ctx context.Context) error {
	if err := t.takeUp(); err != nil {
		return fmt.Errorf("cannot take up a download: %w", err)
	}
	resumed := t.have > 0
	if err := t.fill(ctx); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = errors.Join(err, os.Remove(t.partial())) // others need the room
		}
		return err
	}
	got := "sha256:" + hex.EncodeToString(t.sum.Sum(nil))
	if got != t.digest && resumed {
		// What lay here may be wrong: a power cut leaves such files.
		if err := t.restart(); err != nil {
			return err
		}
		return t.run(ctx)
	}
	if got != t.digest {
		return errors.Join(&digestError{what: "downloaded layer", want: t.digest, got: got}, os.Remove(t.partial()))
	}
	return t.keep()
}

// takeUp hashes what is there already.
func (t *transfer) takeUp() error {
	t.sum = sha256.New()
	n, err := io.Copy(t.sum, t.file)
	if err != nil {
		return err
	}
	if n > t.size {
		return t.restart()
	}
	t.have = n
	t.grown(n)
	return nil
}

// restart forgets what has come.
func (t *transfer) restart() error {
	t.grown(-t.have)
	t.have = 0
	t.sum = sha256.New()
	if _, err := t.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return t.file.Truncate(0)
}

// fill asks again as long as something comes.
func (t *transfer) fill(ctx context.Context) error {
	for idle := 0; t.have < t.size; {
		before := t.have
		err := t.more(ctx)
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if idle++; t.have > before {
			idle = 0
		}
		if idle == maxIdleAttempts || isFinal(err) {
			return fmt.Errorf("cannot download layer %.19s…: %w", t.digest, err)
		}
		if !pause(ctx, firstPause<<idle) {
			return context.Cause(ctx)
		}
	}
	return nil
}

// more is one request's worth of a blob.
func (t *transfer) more(ctx context.Context) error {
	body, from, err := t.get(ctx, t.have)
	if err != nil {
		return err
	}
	defer body.Close()
	if from != t.have {
		if err := t.restart(); err != nil {
			return err
		}
	}
	n, err := io.Copy(&landing{t}, io.LimitReader(body, t.size-t.have))
	if err != nil {
		return err
	}
	if n == 0 || t.have < t.size {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// landing writes, hashes and counts.
type landing struct{ t *transfer }

func (l *landing) Write(p []byte) (int, error) {
	n, err := l.t.file.Write(p)
	l.t.sum.Write(p[:n])
	l.t.have += int64(n)
	l.t.grown(int64(n))
	return n, err
}

// keep makes the blob durable and then visible.
func (t *transfer) keep() error {
	if err := t.file.Sync(); err != nil {
		return fmt.Errorf("cannot keep a layer: %w", err)
	}
	path := t.cache.path(t.digest)
	if err := os.Rename(t.partial(), path); err != nil {
		return fmt.Errorf("cannot keep a layer: %w", err)
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// pause tells whether the time went by without the context ending.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
