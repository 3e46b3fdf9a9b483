package disk

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/disk/dmsnapshot"
)

func spec(t testing.TB) Spec {
	t.Helper()
	return Spec{
		Path:    filepath.Join(t.TempDir(), "disk.cow"),
		Virtual: 20 << 30,
		Base:    1 << 30,
		UID:     os.Getuid(),
	}
}

func TestCreateIsSparseAndLargeEnough(t *testing.T) {
	s := spec(t)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() <= s.Virtual || info.Size() > s.Virtual+s.Virtual/100 {
		t.Errorf("the file is %d bytes for a disk of %d", info.Size(), s.Virtual)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode is %v", info.Mode())
	}
	used, err := Used(s.Path)
	if err != nil || used > 1<<20 {
		t.Errorf("Used = %d, %v", used, err)
	}
}

func TestCreateWritesAHeaderThatTheKernelTakes(t *testing.T) {
	s := spec(t)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head := make([]byte, dmsnapshot.HeaderSize)
	if _, err := file.ReadAt(head, 0); err != nil {
		t.Fatal(err)
	}
	h, err := dmsnapshot.ParseHeader(head)
	if err != nil || !h.Valid || h.ChunkSectors*dmsnapshot.SectorSize != dmsnapshot.ChunkSize {
		t.Fatalf("header is %+v, %v", h, err)
	}
}

func TestCreateSizesAnyDisk(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		s := Spec{
			Path:    filepath.Join(dir, "disk.cow"),
			Virtual: rapid.Int64Range(1, 1<<40).Draw(t, "virtual"),
			UID:     os.Getuid(),
		}
		if err := Create(s); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.Path)
		if err != nil || info.Size()%dmsnapshot.ChunkSize != 0 || info.Size() < s.Virtual+2*dmsnapshot.ChunkSize {
			t.Fatalf("%d bytes (%v) for a disk of %d", info.Size(), err, s.Virtual)
		}
		if err := os.Remove(s.Path); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCreateRefusesADiskSmallerThanItsImage(t *testing.T) {
	s := spec(t)
	s.Virtual = s.Base - 1
	err := Create(s)
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindBadRequest || !strings.Contains(told.Hint, "--disk 1024M") {
		t.Fatalf("error is %#v", err)
	}
	if _, err := os.Stat(s.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is there: %v", err)
	}
}

func TestCreateLeavesAnExistingFileAlone(t *testing.T) {
	s := spec(t)
	if err := os.WriteFile(s.Path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Create(s); !errors.Is(err, os.ErrExist) {
		t.Fatalf("error is %v", err)
	}
	if data, _ := os.ReadFile(s.Path); string(data) != "precious" {
		t.Errorf("the file was changed to %q", data)
	}
}

func TestCreateTakesBackWhatItCouldNotFinish(t *testing.T) {
	s := spec(t)
	s.Virtual = 1 << 62 // larger than any file may be
	var told *api.Error
	if err := Create(s); !errors.As(err, &told) || told.Kind != api.KindBadRequest {
		t.Fatalf("error is %#v", err)
	}
	if _, err := os.Stat(s.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestLockExcludesAndIsInherited(t *testing.T) {
	s := spec(t)
	if err := Create(s); err != nil {
		t.Fatal(err)
	}
	held, err := Lock(s.Path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(s.Path); !errors.Is(err, ErrLocked) {
		t.Fatalf("a second lock gives %v", err)
	}
	child := exec.Command("cat")
	child.ExtraFiles = []*os.File{held}
	stdin, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	held.Close()
	if _, err := Lock(s.Path); !errors.Is(err, ErrLocked) {
		t.Errorf("with the lock inherited by a child, a lock gives %v", err)
	}
	stdin.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(s.Path)
	if err != nil {
		t.Fatalf("after the child's end: %v", err)
	}
	again.Close()
}

func TestUsedOfNoFile(t *testing.T) {
	if used, err := Used(filepath.Join(t.TempDir(), "none")); used != 0 || err != nil {
		t.Errorf("Used = %d, %v", used, err)
	}
}

func TestCheckSpaceTellsTheNumbers(t *testing.T) {
	dir := t.TempDir()
	if err := CheckSpace(dir, 1, "the new VM"); err != nil {
		t.Errorf("one byte: %v", err)
	}
	err := CheckSpace(dir, 1<<60, "the new VM")
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindNoSpace {
		t.Fatalf("error is %#v", err)
	}
	if !strings.Contains(told.Message, "1.0 EiB") || !strings.Contains(told.Message, dir) {
		t.Errorf("message is %q", told.Message)
	}
}

func TestExplainNoSpace(t *testing.T) {
	var told *api.Error
	if err := explain("/x", unix.ENOSPC); !errors.As(err, &told) || told.Kind != api.KindNoSpace {
		t.Errorf("error is %#v", err)
	}
}

func TestCopy(t *testing.T) {
	dir := t.TempDir()
	from := filepath.Join(dir, "image")
	file, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{0, 3 << 20, 9<<20 - 4096} {
		if _, err := file.WriteAt(bytes.Repeat([]byte{byte(at>>20) + 1}, 4096), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(file.Truncate(10<<20), file.Close()); err != nil {
		t.Fatal(err)
	}
	spec := Spec{Path: filepath.Join(dir, "disk"), Virtual: 64 << 20, Base: 10 << 20, UID: os.Getuid()}
	if _, err := Copy(t.Context(), spec, from); err != nil {
		t.Fatal(err)
	}
	want, _ := os.ReadFile(from)
	got, err := os.ReadFile(spec.Path)
	if err != nil || len(got) != 64<<20 || !bytes.Equal(got[:len(want)], want) {
		t.Errorf("the copy is another one: %d bytes, %v", len(got), err)
	}
	if used, err := Used(spec.Path); err != nil || used > 1<<20 {
		t.Errorf("it takes %d bytes, %v", used, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	spec.Path = filepath.Join(dir, "second")
	shared, err := Copy(ctx, spec, from)
	if _, there := os.Stat(spec.Path); !shared && (!errors.Is(err, context.Canceled) || there == nil) {
		t.Errorf("interrupted: %v, left: %v", err, there)
	}
	spec.Virtual = 1 << 20
	if _, err := Copy(t.Context(), spec, from); err == nil {
		t.Error("it fits into less than it is")
	}
}
