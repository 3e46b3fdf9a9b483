package debian

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// decompress reads what the suffix of its name says: ".xz", ".gz", ".zst" or
// "". xi2/xz decodes 66 MB/s here where ulikunitz/xz does 51.
func decompress(r io.Reader, suffix string) (io.ReadCloser, error) {
	switch suffix {
	case "":
		return io.NopCloser(r), nil
	case ".xz":
		return newUnxz(bufio.NewReaderSize(r, 1<<16))
	case ".gz":
		return gzip.NewReader(r)
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("unknown compression %q", suffix)
}

// unxzs are decompressors that are used again: each has a dictionary of 8 MiB or
// more, and a build unpacks hundreds of packages.
var unxzs sync.Pool

// unxz is a decompressor of which Close lets others have it.
type unxz struct{ *xz.Reader }

func newUnxz(r io.Reader) (unxz, error) {
	if x, ok := unxzs.Get().(*xz.Reader); ok {
		return unxz{x}, x.Reset(r)
	}
	x, err := xz.NewReader(r, 0)
	return unxz{x}, err
}

// Close implements [io.Closer].
func (x unxz) Close() error {
	unxzs.Put(x.Reader)
	return nil
}

// packedList is a package list that was downloaded, and what is in it when it is
// unpacked.
type packedList struct {
	path, suffix string
	whole        digest
}

// read lets a function read the list to its end, and fails when that was not
// what is signed: whatever the function made of it is nothing then. The packed
// file is what is signed already.
func (l packedList) read(read func(io.Reader) error) error {
	file, err := os.Open(l.path)
	if err != nil {
		return fmt.Errorf("cannot read a package list: %w", err)
	}
	defer file.Close()
	r, err := decompress(file, l.suffix)
	if err != nil {
		return untrusted(fmt.Errorf("cannot unpack a package list: %w", err))
	}
	defer r.Close()
	sum, n := sha256.New(), int64(0)
	counted := counter(func(more int) { n += int64(more) })
	if err := read(io.TeeReader(io.LimitReader(r, l.whole.size+1), io.MultiWriter(sum, counted))); err != nil {
		return untrusted(fmt.Errorf("cannot read a package list: %w", err))
	}
	if n != l.whole.size || hex.EncodeToString(sum.Sum(nil)) != l.whole.sha256 {
		return untrusted(fmt.Errorf("a package list is not what the signed InRelease says (%d bytes, want %d)", n, l.whole.size))
	}
	return nil
}
