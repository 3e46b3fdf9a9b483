package ext4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/banger-vm/banger/api"
)

// build makes a filesystem of a small tree.
func build(t *testing.T, tree string) string {
	t.Helper()
	size, err := SizeFor(tree)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rootfs.ext4")
	if err := (Mke2fs{}).Build(t.Context(), tree, path, Options{Size: size, Label: "test"}); err != nil {
		t.Fatal(err)
	}
	info, err := Read(path)
	if err != nil || info.Size != size || info.Label != "test" {
		t.Fatalf("it reads as %+v, %v; want %d bytes", info, err, size)
	}
	return path
}

func smallTree(t *testing.T) string {
	t.Helper()
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "etc/deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "etc/deep/file"), []byte("content\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("deep/file", filepath.Join(tree, "etc/link")); err != nil {
		t.Fatal(err)
	}
	return tree
}

// e2fs runs a program of e2fsprogs on a filesystem.
func e2fs(t rapid.TB, program string, args ...string) string {
	t.Helper()
	mke2fs, err := (Mke2fs{}).find()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(filepath.Dir(mke2fs), program), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

func TestBuild(t *testing.T) {
	path := build(t, smallTree(t))
	e2fs(t, "e2fsck", "-fn", path)
	if got := e2fs(t, "debugfs", "-R", "cat /etc/deep/file", path); !strings.HasSuffix(got, "content\n") {
		t.Errorf("the file holds %q", got)
	}
	if got := e2fs(t, "debugfs", "-R", "stat /etc/deep/file", path); !strings.Contains(got, "Mode:  0640") {
		t.Errorf("the file is %s", got)
	}
}

// head is the first 64 KiB of a file.
func head(t *testing.T, path string) []byte {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	data := make([]byte, 64<<10)
	if _, err := io.ReadFull(file, data); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestLayout holds what the copy-on-write disks count on: room for the
// descriptors of reservedDisk, no block kept back for root, and no inode table that
// the first mount would have to zero.
func TestLayout(t *testing.T) {
	path := build(t, smallTree(t))
	sb := head(t, path)[superOffset : superOffset+1024]
	le := binary.LittleEndian
	got := fmt.Sprintf("compat %#x incompat %#x ro %#x blocks 2^%d inodes of %d, %d reserved descriptors, %d for root",
		le.Uint32(sb[0x5C:]), le.Uint32(sb[0x60:]), le.Uint32(sb[0x64:]), 10+le.Uint32(sb[0x18:]), le.Uint16(sb[0x58:]),
		le.Uint16(sb[0xCE:]), le.Uint32(sb[0x8:]))
	want := "compat 0x3c incompat 0x2c2 ro 0x46b blocks 2^12 inodes of 256, 7 reserved descriptors, 0 for root"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for line := range strings.Lines(e2fs(t, "dumpe2fs", path)) {
		if strings.HasPrefix(line, "Group ") && strings.Contains(line, "(Blocks") && !strings.Contains(line, "ITABLE_ZEROED") {
			t.Errorf("not zeroed: %s", line)
		}
	}
}

func TestManySmallFiles(t *testing.T) {
	tree := t.TempDir()
	for i := range 25_000 {
		dir := filepath.Join(tree, fmt.Sprint(i/100)) // mke2fs is slow with large directories
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build(t, tree)
}

func TestSizeCountsHardLinksOnce(t *testing.T) {
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(tree, "a"), 256<<20); err != nil {
		t.Fatal(err)
	}
	one, err := SizeFor(tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(tree, "a"), filepath.Join(tree, "b")); err != nil {
		t.Fatal(err)
	}
	two, err := SizeFor(tree)
	if err != nil || one != two || one%mib != 0 {
		t.Errorf("%d, then %d, %v", one, two, err)
	}
}

// The limits are Linux's, of filesystems as others make them.
func TestHowFarOthersGrow(t *testing.T) {
	const kib, size = 1 << 10, 64 * mib
	for options, want := range map[string]int64{
		"":                                MaxDisk,
		"-O ^resize_inode,^64bit -b 4096": MaxDisk,
		"-O sparse_super2":                size,
		"-O ^64bit -b 1024":               (1<<32 - 1) * kib,
		"-b 1024 -i 1024":                 ((1<<32-1)/8192 - 1) * 8192 * kib,
	} {
		path := filepath.Join(t.TempDir(), "x")
		e2fs(t, "mke2fs", slices.Concat([]string{"-q", "-t", "ext4"}, strings.Fields(options), []string{path, "64M"})...)
		if info, err := Read(path); err != nil || info.Size != size || info.MaxDisk != want {
			t.Errorf("%q: %+v, %v; want %d", options, info, err, want)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	path := build(t, smallTree(t))
	start := head(t, path)
	edit := func(at int, b byte) []byte {
		c := bytes.Clone(start)
		c[superOffset+at] = b
		return c
	}
	tests := map[string][]byte{
		"empty":      nil,
		"short":      start[:1500],
		"text":       []byte(strings.Repeat("hello ", 1000)),
		"cut off":    start,
		"no extents": edit(0x60, 0),
		"huge block": edit(0x18, 200),
	}
	for name, data := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "x")
			if err := os.WriteFile(file, data, 0o644); err != nil {
				t.Fatal(err)
			}
			if _, err := Read(file); !errors.Is(err, ErrNotExt4) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := Read(filepath.Join(t.TempDir(), "absent")); err == nil || errors.Is(err, ErrNotExt4) {
		t.Errorf("of an absent file: %v", err)
	}
}

func TestNoMke2fs(t *testing.T) {
	err := Mke2fs{Program: "/no/such/mke2fs"}.Build(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "x"), Options{Size: mib})
	if err == nil {
		t.Error("it works without the program")
	}
	var e *api.Error
	if errors.As(err, &e) {
		t.Errorf("a program that was named is not the host's fault: %v", e)
	}
}

func FuzzSuperblock(f *testing.F) {
	sb := make([]byte, 1024)
	binary.LittleEndian.PutUint16(sb[0x38:], superMagic)
	binary.LittleEndian.PutUint32(sb[0x60:], incompatExtents)
	binary.LittleEndian.PutUint32(sb[0x4:], 1000)
	f.Add(sb)
	f.Fuzz(func(t *testing.T, sb []byte) {
		if len(sb) < 1024 {
			return
		}
		if info, err := parseSuperblock(sb); err == nil && (info.Size <= 0 || info.MaxDisk < info.Size) {
			t.Errorf("%+v", info)
		}
	})
}
