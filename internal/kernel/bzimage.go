package kernel

import (
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz/lzma"
	"github.com/xi2/xz"
)

// Where a bzImage says what is inside of it (kernel documentation,
// arch/x86/boot.rst).
const (
	setupSectorsAt   = 0x1f1
	headerMagicAt    = 0x202
	payloadOffsetAt  = 0x248
	payloadLengthAt  = 0x24c
	bootHeaderLength = 0x268

	maxKernel = 512 << 20

	// Where an arm64 Image says what it is (arch/arm64/booting.rst).
	arm64MagicAt = 56
	arm64Magic   = "ARM\x64"
)

// extractKernel gives the vmlinux inside of a bzImage; what is an ELF file
// already is given back as it is.
func extractKernel(image []byte) ([]byte, error) {
	r, size, err := openKernel(image)
	if err != nil {
		return nil, err
	}
	kernel := make([]byte, size)
	if _, err := io.ReadFull(r, kernel); err != nil {
		return nil, fmt.Errorf("cannot decompress the kernel: %w", err)
	}
	return kernel, nil
}

// openKernel begins to extract a kernel, and gives the size of it.
func openKernel(image []byte) (io.Reader, int64, error) {
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		return bytes.NewReader(image), int64(len(image)), nil
	}
	payload, err := bzImagePayload(image)
	if err != nil {
		return nil, 0, err
	}
	// Its last four bytes are the size of what is in it: part of the format for
	// gzip, appended by the kernel's build for the others.
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if size > maxKernel {
		return nil, 0, fmt.Errorf("cannot decompress the kernel: it claims to be %d bytes", size)
	}
	r, err := payloadReader(payload)
	if err != nil {
		return nil, 0, fmt.Errorf("cannot decompress the kernel: %w", err)
	}
	return r, int64(size), nil
}

func bzImagePayload(image []byte) ([]byte, error) {
	if len(image) < bootHeaderLength || string(image[headerMagicAt:headerMagicAt+4]) != "HdrS" {
		if len(image) > arm64MagicAt+4 && string(image[arm64MagicAt:arm64MagicAt+4]) == arm64Magic {
			return nil, fmt.Errorf("the kernel is for arm64 processors, and this host has %s", runtime.GOARCH)
		}
		return nil, errors.New("the kernel is neither an ELF file nor a bzImage")
	}
	setup := int64(image[setupSectorsAt])
	if setup == 0 {
		setup = 4
	}
	start := (setup+1)*512 + int64(binary.LittleEndian.Uint32(image[payloadOffsetAt:]))
	length := int64(binary.LittleEndian.Uint32(image[payloadLengthAt:]))
	if length < 8 || start+length > int64(len(image)) {
		return nil, errors.New("the kernel's bzImage is cut short")
	}
	return image[start : start+length], nil
}

func payloadReader(payload []byte) (io.Reader, error) {
	stream := bytes.NewReader(payload[:len(payload)-4])
	switch {
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(stream, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
	case bytes.HasPrefix(payload, []byte{0xfd, '7', 'z', 'X', 'Z'}):
		return xz.NewReader(stream, 0)
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}):
		return lz4.NewReader(stream), nil // the legacy frame
	case bytes.HasPrefix(payload, []byte("BZh")):
		return bzip2.NewReader(stream), nil
	case bytes.HasPrefix(payload, []byte{0x5d, 0, 0}):
		return lzma.NewReader(stream)
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		return gzip.NewReader(bytes.NewReader(payload))
	}
	return nil, fmt.Errorf("it is packed in an unknown way (it starts with % x)", payload[:4])
}

// The note that holds a kernel's PVH entry (xen/include/public/elfnote.h).
const (
	xenNoteName      = "Xen"
	xenNotePhysEntry = 18 // XEN_ELFNOTE_PHYS32_ENTRY
)

// checkKernel refuses what Firecracker and fcqemu could not start: they load an
// ELF file and enter it by its PVH note.
func checkKernel(kernel io.ReaderAt) error {
	file, err := elf.NewFile(kernel)
	if err != nil {
		return fmt.Errorf("the kernel is no ELF file: %w", err)
	}
	for _, p := range file.Progs {
		if p.Type != elf.PT_NOTE {
			continue
		}
		notes, err := io.ReadAll(p.Open())
		if err != nil {
			return fmt.Errorf("cannot read the kernel's notes: %w", err)
		}
		if hasPVHNote(notes) {
			return nil
		}
	}
	return errors.New("the kernel has no PVH entry (CONFIG_PVH)")
}

// hasPVHNote walks ELF notes: sizes of name and description and the type, 32
// bits each, then both, each padded to four bytes.
func hasPVHNote(notes []byte) bool {
	for len(notes) >= 12 {
		word := func(i int) int { return int(binary.LittleEndian.Uint32(notes[4*i:])) }
		nameLen, descLen, kind := word(0), word(1), word(2)
		size := 12 + roundUp4(nameLen) + roundUp4(descLen)
		if size > len(notes) {
			return false
		}
		if kind == xenNotePhysEntry && string(bytes.TrimRight(notes[12:12+nameLen], "\x00")) == xenNoteName {
			return true
		}
		notes = notes[size:]
	}
	return false
}

func roundUp4(n int) int { return (n + 3) &^ 3 }
