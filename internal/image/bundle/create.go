package bundle

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Create writes a bundle of the filesystem in the file at rootfs to w and tells
// what it is. Format, Arch and the sizes of m are filled in. told is called with
// the number of the filesystem's bytes done so far.
func Create(ctx context.Context, w io.Writer, m Manifest, rootfs string, told func(done, total int64)) (Want, error) {
	file, err := os.Open(rootfs)
	if err != nil {
		return Want{}, fmt.Errorf("cannot read the image: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Want{}, fmt.Errorf("cannot read the image: %w", err)
	}
	m.Format, m.Arch, m.Size = Format, runtime.GOARCH, info.Size()
	if m.DataBytes, err = dataBytes(file, m.Size); err != nil {
		return Want{}, err
	}
	sum, count := sha256.New(), &counter{}
	packed, err := zstd.NewWriter(io.MultiWriter(w, sum, count), zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(8<<20))
	if err != nil {
		return Want{}, fmt.Errorf("cannot pack the image: %w", err)
	}
	content := &source{ctx: ctx, file: file, size: m.Size, told: told}
	if err := errors.Join(writeTar(packed, m, content), packed.Close()); err != nil {
		return Want{}, fmt.Errorf("cannot pack the image: %w", err)
	}
	return Want{SHA256: hex.EncodeToString(sum.Sum(nil)), Size: count.n}, nil
}

func writeTar(w io.Writer, m Manifest, content io.Reader) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	members := tar.NewWriter(w)
	header := func(name string, size int64) error {
		return members.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: m.Created})
	}
	if err := header(ManifestName, int64(len(text))); err != nil {
		return err
	}
	if _, err := members.Write(text); err != nil {
		return err
	}
	if err := header(RootfsName, m.Size); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(members, bufio.NewReaderSize(content, chunk), make([]byte, chunk)); err != nil {
		return err
	}
	return members.Close()
}

// counter counts what is written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// source reads a sparse file without reading its holes from the disk.
type source struct {
	ctx  context.Context
	file *os.File
	size int64
	at   int64
	data int64 // where the next data begins, known when it is at or behind at
	end  int64 // and where it ends
	told func(done, total int64)
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	if s.at >= s.size {
		return 0, io.EOF
	}
	if s.at >= s.end {
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	p = p[:min(int64(len(p)), s.size-s.at)]
	var n int
	var err error
	if s.at < s.data {
		n = int(min(int64(len(p)), s.data-s.at))
		clear(p[:n])
	} else {
		n, err = s.file.ReadAt(p[:min(int64(len(p)), s.end-s.at)], s.at)
		if n > 0 {
			err = nil
		}
	}
	s.at += int64(n)
	s.told(s.at, s.size)
	return n, err
}

// next finds the data from at on.
func (s *source) next() (err error) {
	s.data, s.end, err = nextData(s.file, s.at, s.size)
	return err
}

// nextData gives the bounds of the first data from at on; size twice when there
// is none.
func nextData(file *os.File, at, size int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("cannot look for holes: %w", err)
	}
	end, err = unix.Seek(int(file.Fd()), begin, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("cannot look for holes: %w", err)
	}
	return begin, min(end, size), nil
}

// dataBytes is a bound for what of the file is not zeros, in whole blocks.
func dataBytes(file *os.File, size int64) (int64, error) {
	var sum int64
	for at := int64(0); at < size; {
		begin, end, err := nextData(file, at, size)
		if err != nil {
			return 0, err
		}
		begin, end = begin/block*block, (end+block-1)/block*block
		sum += end - begin
		at = max(end, at+1)
	}
	return min(sum, size), nil
}
