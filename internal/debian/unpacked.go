package debian

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

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
		x, err := xz.NewReader(bufio.NewReaderSize(r, 1<<16), 0)
		if err != nil {
			return nil, err
		}
		return io.NopCloser(x), nil
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

// readPacked reads the whole of a packed file that must be what want says.
func readPacked(path, suffix string, want digest) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read a package list: %w", err)
	}
	defer file.Close()
	r, err := decompress(file, suffix)
	if err != nil {
		return "", untrusted(fmt.Errorf("cannot unpack a package list: %w", err))
	}
	defer r.Close()
	var text strings.Builder
	text.Grow(int(want.size))
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(&text, sum), io.LimitReader(r, want.size+1))
	if err != nil {
		return "", untrusted(fmt.Errorf("cannot unpack a package list: %w", err))
	}
	if n != want.size || hex.EncodeToString(sum.Sum(nil)) != want.sha256 {
		return "", untrusted(fmt.Errorf("a package list is not what the signed InRelease says (%d bytes, want %d)", n, want.size))
	}
	return text.String(), nil
}
