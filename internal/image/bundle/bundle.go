// Package bundle reads and writes images as one file: a tar, packed with zstd,
// of manifest.json and, after it, rootfs.ext4. A bundle is read in one pass, as
// it comes from the network: verified, unpacked and written as a sparse file,
// and kept nowhere else.
//
// What is in a bundle is not trusted until its hash has turned out right; every
// size in it is bounded before that.
package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/api"
)

// The members of a bundle, in their order.
const (
	ManifestName = "manifest.json"
	RootfsName   = "rootfs.ext4"
)

// Format is the form of a bundle that this program reads and writes.
const Format = 1

const (
	// maxManifest bounds manifest.json, in bytes.
	maxManifest = 1 << 20
	// maxRootfs bounds the filesystem, in bytes, holes and all.
	maxRootfs = 1 << 44
	// maxWindow bounds the memory that unpacking takes.
	maxWindow = 128 << 20
)

// Manifest says what the filesystem of a bundle is.
type Manifest struct {
	Format int    `json:"format"`
	Name   string `json:"name"` // what its maker called it
	Detail string `json:"detail,omitempty"`
	Arch   string `json:"arch"` // as Go calls it: "amd64"
	Kernel string `json:"kernel,omitempty"`
	// Size is the filesystem's, DataBytes what of it is not holes.
	Size      int64 `json:"size_bytes"`
	DataBytes int64 `json:"data_bytes"`
	// MaxDisk is how far the filesystem grows online; 0: not known.
	MaxDisk int64     `json:"max_disk_bytes,omitempty"`
	Created time.Time `json:"created"`
	// Config is what the image says about running it, in the form of its store.
	Config json.RawMessage `json:"config,omitempty"`
}

// Want is what a bundle must turn out to be.
type Want struct {
	SHA256 string // lower-case hex
	Size   int64  // bytes of the bundle
}

// Check says no to what must not be written: it is called with the manifest,
// before the filesystem comes.
type Check func(Manifest) error

// Extract reads a bundle from r and writes its filesystem to path, which must
// not exist. The bundle must be what want says, to the byte. When it is not, an
// error is given and what was written is to be thrown away: an *api.Error of
// kind untrusted where the bundle is wrong. told is called with the number of
// bytes read so far.
func Extract(ctx context.Context, r io.Reader, want Want, path string, check Check, told func(int64)) (Manifest, error) {
	sum := &summer{ctx: ctx, from: r, hash: sha256.New(), limit: want.Size, told: told}
	unpacked, err := zstd.NewReader(sum, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot unpack the bundle: %w", err)
	}
	m, err := extract(unpacked, path, check)
	unpacked.Close() // after it nobody reads from sum
	if err == nil {
		err = sum.verify(want)
	}
	if sum.err != nil {
		return Manifest{}, sum.err // whatever came of it
	}
	var form formError
	if errors.As(err, &form) {
		return Manifest{}, wrong(form.Error())
	}
	return m, err
}

// formError is a bundle that is not made as bundles are.
type formError struct{ error }

func (e formError) Unwrap() error { return e.error }

func malformed(format string, args ...any) error { return formError{fmt.Errorf(format, args...)} }

func wrong(why string) error {
	return &api.Error{
		Kind: api.KindUntrusted, Message: "the bundle is not right: " + why,
		Hint: "nothing was kept of it; tell who keeps the catalog, or try again later",
	}
}

func extract(unpacked io.Reader, path string, check Check) (Manifest, error) {
	members := tar.NewReader(unpacked)
	m, err := readManifest(members)
	if err != nil {
		return Manifest{}, err
	}
	if err := check(m); err != nil {
		return Manifest{}, err
	}
	h, err := members.Next()
	if err != nil {
		return Manifest{}, malformed("it ends before %s: %w", RootfsName, err)
	}
	if h.Name != RootfsName || h.Typeflag != tar.TypeReg || h.Size != m.Size {
		return Manifest{}, malformed("its second member is not a %s of %d bytes", RootfsName, m.Size)
	}
	if err := writeFile(path, members, m); err != nil {
		return Manifest{}, err
	}
	if _, err := members.Next(); !errors.Is(err, io.EOF) {
		return Manifest{}, malformed("it holds more than %s and %s", ManifestName, RootfsName)
	}
	// The tar may be padded; the compressed stream must come to its end too.
	if n, err := io.Copy(io.Discard, io.LimitReader(unpacked, maxPadding)); err != nil || n == maxPadding {
		return Manifest{}, malformed("it does not end where it should")
	}
	return m, nil
}

// maxPadding is more zeros than any tar ends with.
const maxPadding = 1 << 20

func readManifest(members *tar.Reader) (Manifest, error) {
	h, err := members.Next()
	if err != nil {
		return Manifest{}, malformed("it is no tar packed with zstd: %w", err)
	}
	if h.Name != ManifestName || h.Typeflag != tar.TypeReg || h.Size > maxManifest {
		return Manifest{}, malformed("its first member is not a %s", ManifestName)
	}
	text, err := io.ReadAll(members)
	if err != nil {
		return Manifest{}, malformed("cannot read its %s: %w", ManifestName, err)
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return Manifest{}, malformed("cannot read its %s: %w", ManifestName, err)
	}
	return m, m.check()
}

func (m Manifest) check() error {
	switch {
	case m.Format > Format:
		return &api.Error{
			Kind:    api.KindHost,
			Message: fmt.Sprintf("the bundle was made for a newer banger: it has format %d, and this one knows %d", m.Format, Format),
			Hint:    "get a newer banger",
		}
	case m.Format < 1:
		return malformed("its %s says no format", ManifestName)
	case m.Size <= 0 || m.Size > maxRootfs || m.DataBytes < 0 || m.DataBytes > m.Size:
		return malformed("the sizes in its %s make no sense", ManifestName)
	case m.Arch != runtime.GOARCH:
		return &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("the bundle is for %.20s processors, and this host has %s", m.Arch, runtime.GOARCH),
			Hint:    "look for an image of the same kind for " + runtime.GOARCH,
		}
	}
	return nil
}

func writeFile(path string, content io.Reader, m Manifest) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the filesystem: %w", err)
	}
	defer file.Close()
	if err := writeSparse(file, content, m); err != nil {
		return err
	}
	if err := file.Truncate(m.Size); err != nil {
		return fmt.Errorf("cannot write the filesystem: %w", err)
	}
	return file.Close()
}

// chunk is what is written at once, block the least hole.
const (
	chunk = 1 << 20
	block = 4 << 10
)

// writeSparse writes the content that m tells of from the start of file and
// leaves blocks of zeros out. More data than m tells of is refused.
func writeSparse(file *os.File, content io.Reader, m Manifest) error {
	buf := make([]byte, min(chunk, m.Size))
	var written int64
	for at := int64(0); at < m.Size; {
		part := buf[:min(chunk, m.Size-at)]
		if _, err := io.ReadFull(content, part); err != nil {
			return malformed("it is cut off or damaged: %w", err)
		}
		n, err := writeData(file, part, at)
		if err != nil {
			return fmt.Errorf("cannot write the filesystem: %w", err)
		}
		if written += n; written > m.DataBytes {
			return malformed("it holds more than the %d bytes that its %s tells of", m.DataBytes, ManifestName)
		}
		at += int64(len(part))
	}
	return nil
}

// writeData writes what of part, which belongs at the offset at, is not zeros,
// and gives its bytes.
func writeData(file *os.File, part []byte, at int64) (written int64, err error) {
	for begin := 0; begin < len(part); {
		end := dataEnd(part, begin)
		if end == begin {
			begin += block
			continue
		}
		if _, err := file.WriteAt(part[begin:end], at+int64(begin)); err != nil {
			return written, err
		}
		written += int64(end - begin)
		begin = end
	}
	return written, nil
}

var zeros [block]byte

// dataEnd gives the end of the run of blocks from begin that are not zeros.
func dataEnd(buf []byte, begin int) int {
	for begin < len(buf) {
		end := min(begin+block, len(buf))
		if bytes.Equal(buf[begin:end], zeros[:end-begin]) {
			return begin
		}
		begin = end
	}
	return begin
}

// summer hashes and counts what is read through it.
type summer struct {
	ctx   context.Context
	from  io.Reader
	hash  hash.Hash
	n     int64
	limit int64
	told  func(int64)
	err   error // of from, but its end
}

func (s *summer) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		s.err = context.Cause(s.ctx)
		return 0, s.err
	}
	n, err := s.from.Read(p)
	s.n += int64(n)
	if s.n > s.limit {
		s.err = wrong(fmt.Sprintf("it is larger than the %d bytes that the catalog tells of", s.limit))
		return 0, s.err
	}
	s.hash.Write(p[:n])
	s.told(s.n)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// verify reads what is left, which must be nothing, and compares.
func (s *summer) verify(want Want) error {
	if s.err != nil {
		return s.err
	}
	if _, err := io.Copy(io.Discard, s); err != nil {
		return err
	}
	if s.n != want.Size {
		return malformed("it has %d bytes, and the catalog tells of %d", s.n, want.Size)
	}
	if got := hex.EncodeToString(s.hash.Sum(nil)); got != want.SHA256 {
		return malformed("its sha256 is %s, and the catalog tells of %s", got, want.SHA256)
	}
	return nil
}
