package oci

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/banger-vm/banger/api"
)

// A layer is decompressed ahead of who reads it by at most ahead pieces: so
// the next one is on its way while one is being laid down.
const (
	pieceSize = 256 << 10
	ahead     = 48
)

// maxWindow bounds the memory that a zstd layer may ask for. It is what
// `zstd --long` asks for at most without a warning.
const maxWindow = 128 << 20

// blobReader gives the bytes of a layer as they are stored.
type blobReader func(ctx context.Context) (io.ReadCloser, error)

// Layer is one layer of an image.
type Layer struct {
	Digest string // "sha256:…" of the blob; empty when the archive does not say
	DiffID string // "sha256:…" of the blob, decompressed
	Size   int64  // bytes of the blob

	open blobReader
}

// layerStream is a layer on its way: a goroutine decompresses it into pieces,
// and Read hands them out. Both digests are checked before Read says io.EOF.
type layerStream struct {
	pieces chan []byte
	free   chan []byte
	stop   context.CancelFunc
	failed error // set before pieces is closed
	blob   atomic.Int64
	moved  func(int64) // when not nil, told how many bytes of the blob were read

	current []byte // what is left of a piece
	whole   []byte // the piece, to be used again
	sum     hash.Hash
	diffID  string
}

func (l Layer) stream(ctx context.Context) *layerStream {
	ctx, stop := context.WithCancel(ctx)
	s := &layerStream{pieces: make(chan []byte, ahead), free: make(chan []byte, ahead+2), stop: stop, sum: sha256.New(), diffID: l.DiffID}
	go func() {
		defer close(s.pieces)
		s.failed = s.decompress(ctx, l)
	}()
	return s
}

// decompress reads the whole blob and checks it.
func (s *layerStream) decompress(ctx context.Context, l Layer) error {
	blob, err := l.open(ctx)
	if err != nil {
		return err
	}
	defer blob.Close()
	sum := sha256.New()
	counted := &counter{r: io.TeeReader(io.LimitReader(blob, l.Size+1), sum), n: &s.blob}
	plain, done, err := decompressed(counted)
	if err != nil {
		return err
	}
	defer done()
	if err := s.fill(ctx, plain); err != nil {
		return decompressError(err)
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fmt.Errorf("cannot read a layer: %w", err)
	}
	if n := s.blob.Load(); n != l.Size {
		return badImage("a layer has %d bytes or more, and its image says %d", n, l.Size)
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); l.Digest != "" && got != l.Digest {
		return &digestError{what: "layer", want: l.Digest, got: got}
	}
	return nil
}

// fill puts everything of r into pieces.
func (s *layerStream) fill(ctx context.Context, r io.Reader) error {
	for {
		piece := s.piece()
		n, err := readUpTo(r, piece)
		if n > 0 {
			select {
			case s.pieces <- piece[:n]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readUpTo reads until p is full or r gives an error, which stays as it is: a
// stream that is cut off is told from one that ends.
func readUpTo(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var more int
		more, err = r.Read(p[n:])
		n += more
	}
	return n, err
}

func (s *layerStream) piece() []byte {
	select {
	case p := <-s.free:
		return p
	default:
		return make([]byte, pieceSize)
	}
}

func (s *layerStream) Read(p []byte) (int, error) {
	for len(s.current) == 0 {
		if s.whole != nil {
			s.free <- s.whole[:pieceSize]
			s.whole = nil
		}
		piece, ok := <-s.pieces
		if !ok {
			return 0, s.end()
		}
		s.current, s.whole = piece, piece
		if s.moved != nil {
			s.moved(s.blob.Load())
		}
	}
	n := copy(p, s.current)
	s.sum.Write(p[:n])
	s.current = s.current[n:]
	return n, nil
}

// end is io.EOF when all that was read is what the image says.
func (s *layerStream) end() error {
	if s.failed != nil {
		return s.failed
	}
	if got := "sha256:" + hex.EncodeToString(s.sum.Sum(nil)); got != s.diffID {
		return &digestError{what: "decompressed layer", want: s.diffID, got: got}
	}
	return io.EOF
}

// Close ends the stream; it may be called at any time.
func (s *layerStream) Close() {
	s.stop()
	for range s.pieces {
	}
}

// counter counts what goes through it, and marks its errors as the source's.
type counter struct {
	r io.Reader
	n *atomic.Int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// decompressed finds out by its first bytes how r is compressed: media types
// are wrong too often. done frees what the decompressor holds.
func decompressed(r io.Reader) (plain io.Reader, done func(), err error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	magic, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, decompressError(err)
	}
	switch {
	case isGzip(magic):
		z, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, nil, decompressError(err)
		}
		return z, func() {}, nil
	case isZstd(magic):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, decompressError(err)
		}
		return z, z.Close, nil
	}
	return buffered, func() {}, nil
}

// isZstd knows the magic numbers of a frame and of the sixteen skippable ones
// (RFC 8878).
func isZstd(begin []byte) bool {
	if len(begin) < 4 {
		return false
	}
	magic := binary.LittleEndian.Uint32(begin)
	return magic == 0xFD2FB528 || magic&^0xF == 0x184D2A50
}

// isGzip knows RFC 1952's magic number.
func isGzip(begin []byte) bool { return len(begin) >= 2 && begin[0] == 0x1f && begin[1] == 0x8b }

// decompressError tells a broken stream from a source that failed.
func decompressError(err error) error {
	var source *sourceError
	switch {
	case errors.As(err, &source):
		return fmt.Errorf("cannot read a layer: %w", source.err)
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badImage("a layer is cut off")
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return badImage("a layer needs more than %d MiB of memory to be decompressed", maxWindow>>20)
	}
	return badImage("a layer can't be decompressed: %v", err)
}

// digestError says that bytes are not what their name says.
type digestError struct{ what, want, got string }

func (e *digestError) Error() string {
	return fmt.Sprintf("a %s has digest %s, and the image says %s", e.what, e.got, e.want)
}

// As gives the error its kind.
func (e *digestError) As(target any) bool {
	told, ok := target.(**api.Error)
	if ok {
		*told = &api.Error{Kind: api.KindUntrusted, Message: e.Error(), Hint: "nothing of it was kept; pulling again fetches it anew"}
	}
	return ok
}

// Is makes it an [ErrBadImage].
func (e *digestError) Is(target error) bool { return target == ErrBadImage }
