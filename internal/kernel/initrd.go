package kernel

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/xi2/xz"
)

// An initrd is one "newc" cpio archive or several, one after the other, with
// zeros between; the last may be packed (kernel documentation,
// driver-api/early-userspace/buffer-format.rst).
const (
	cpioHeader  = 110
	cpioTrailer = "TRAILER!!!"

	maxInitrdName = 4096
	maxInitrd     = 4 << 30 // bytes of all of it, unpacked
	maxModule     = 256 << 20
)

// initrdModules writes the modules of a kernel's release that are in an initrd,
// and the lists beside them, into dir. What is in dir already stays. Other
// files of the initrd are left out.
func initrdModules(file, release, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("cannot read the initrd: %w", err)
	}
	defer f.Close()
	prefix := "lib/modules/" + release + "/"
	found := 0
	err = eachInitrdFile(f, func(name string, content io.Reader, size int64) error {
		name = strings.TrimPrefix(strings.TrimPrefix(path.Clean("/"+name), "/"), "usr/")
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok || !filepath.IsLocal(rest) || !strings.Contains(path.Base(rest), ".ko") && !strings.HasPrefix(rest, "modules.") {
			return nil
		}
		if size > maxModule {
			return fmt.Errorf("%s claims to be %d bytes", name, size)
		}
		found++
		return writeMissing(filepath.Join(dir, rest), content)
	})
	if err != nil {
		return fmt.Errorf("cannot read the initrd: %w", err)
	}
	if found == 0 {
		return fmt.Errorf("cannot find modules of %s in the initrd", release)
	}
	return nil
}

// writeMissing writes a file unless there is one.
func writeMissing(path string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// eachInitrdFile calls f for each regular file of an initrd.
func eachInitrdFile(r io.Reader, f func(name string, content io.Reader, size int64) error) error {
	in := bufio.NewReaderSize(r, 1<<20)
	for packed := false; ; {
		if err := skipZeros(in); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		head, err := in.Peek(6)
		if err != nil {
			return fmt.Errorf("it is cut short: %w", err)
		}
		if string(head) == "070701" || string(head) == "070702" {
			if err := eachArchiveFile(in, f); err != nil {
				return err
			}
			continue
		}
		if packed {
			return errors.New("it is packed twice, or damaged")
		}
		packed = true
		plain, err := initrdReader(in, head)
		if err != nil {
			return err
		}
		in = bufio.NewReaderSize(io.LimitReader(plain, maxInitrd), 1<<20)
	}
}

func skipZeros(in *bufio.Reader) error {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return err
		}
		if b != 0 {
			return in.UnreadByte()
		}
	}
}

func initrdReader(in io.Reader, head []byte) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z'}):
		return xz.NewReader(in, 0)
	case bytes.HasPrefix(head, []byte{0x02, 0x21, 0x4c, 0x18}), bytes.HasPrefix(head, []byte{0x04, 0x22, 0x4d, 0x18}):
		return lz4.NewReader(in), nil
	}
	return nil, fmt.Errorf("it is neither a cpio archive nor packed in a known way (it starts with % x)", head)
}

// eachArchiveFile reads one archive, its trailer included.
func eachArchiveFile(in *bufio.Reader, f func(name string, content io.Reader, size int64) error) error {
	var header [cpioHeader]byte
	for {
		if _, err := io.ReadFull(in, header[:]); err != nil {
			return fmt.Errorf("it is cut short: %w", err)
		}
		field := func(i int) (int64, error) { return strconv.ParseInt(string(header[6+8*i:14+8*i]), 16, 64) }
		mode, err1 := field(1)
		size, err2 := field(6)
		nameSize, err3 := field(11)
		if err := errors.Join(err1, err2, err3); err != nil || !strings.HasPrefix(string(header[:]), "07070") || nameSize < 1 || nameSize > maxInitrdName {
			return errors.New("its archive is damaged")
		}
		name := make([]byte, nameSize+padding(cpioHeader+nameSize))
		if _, err := io.ReadFull(in, name); err != nil {
			return fmt.Errorf("it is cut short: %w", err)
		}
		text := strings.TrimRight(string(name[:nameSize]), "\x00")
		if text == cpioTrailer {
			return nil
		}
		content := io.LimitReader(in, size)
		if mode&0o170000 == 0o100000 {
			if err := f(text, content, size); err != nil {
				return err
			}
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
		if _, err := in.Discard(int(padding(size))); err != nil {
			return fmt.Errorf("it is cut short: %w", err)
		}
	}
}

// padding is how many bytes fill up to four.
func padding(n int64) int64 { return (4 - n%4) % 4 }
