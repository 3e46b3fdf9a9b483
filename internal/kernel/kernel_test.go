package kernel

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// storeWith makes a store that holds one whole kernel, as a build leaves it.
func storeWith(t *testing.T, name string) *Store {
	t.Helper()
	dir := t.TempDir()
	s := &Store{Dir: filepath.Join(dir, "kernels"), Init: filepath.Join(dir, "init"), Agent: filepath.Join(dir, "agent")}
	put(t, s.Init, "the init")
	put(t, s.Agent, "the agent")
	built := filepath.Join(dir, "built")
	put(t, filepath.Join(built, vmlinuxFile), "a kernel")
	put(t, filepath.Join(built, modulesFile), "modules")
	put(t, filepath.Join(built, earlyDir, "virtio_blk.ko"), "a driver")
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := s.commit(t.Context(), built, record{
		Format: recordFormat, Name: name, Version: "6.12.1-1", Release: "6.12.1-cloud", Source: SourceCatalog,
		Created: time.Unix(1_700_000_000, 0).UTC(), Early: []earlyModule{{File: "virtio_blk.ko"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := writeFile(path, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func ensure(t *testing.T, s *Store, name string) Kernel {
	t.Helper()
	k, err := s.Ensure(context.Background(), name, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEnsureGivesALocalKernelWithoutAnyArchive(t *testing.T) {
	s := storeWith(t, "mine")
	k := ensure(t, s, "mine")
	if !k.Local || k.Version != "6.12.1-1" || k.Release != "6.12.1-cloud" || k.Size == 0 {
		t.Errorf("kernel is %+v", k)
	}
	for _, path := range []string{k.Vmlinux, k.Modules, k.Initramfs} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	data, err := os.ReadFile(k.Initramfs)
	if err != nil || !bytes.Contains(data, []byte("the agent")) || !bytes.Contains(data, []byte("a driver")) {
		t.Errorf("the initramfs lacks something (%v)", err)
	}
}

func TestAnotherAgentGivesAnotherInitramfsAndLeavesTheFirst(t *testing.T) {
	s := storeWith(t, "mine")
	first := ensure(t, s, "mine")
	if again := ensure(t, s, "mine"); again.Initramfs != first.Initramfs {
		t.Errorf("the same programs give %s and %s", first.Initramfs, again.Initramfs)
	}
	put(t, s.Agent, "a newer agent")
	second := ensure(t, s, "mine")
	if second.Initramfs == first.Initramfs {
		t.Fatal("a newer agent gives the same initramfs")
	}
	if _, err := os.Stat(first.Initramfs); err != nil {
		t.Errorf("the first is gone while a VMM may be about to read it: %v", err)
	}
	link, err := os.Readlink(filepath.Join(filepath.Dir(second.Initramfs), initramfsLink))
	if err != nil || link != filepath.Base(second.Initramfs) {
		t.Errorf("the link leads to %q (%v)", link, err)
	}
}

func TestAnInitramfsThatNobodyWantsIsRemoved(t *testing.T) {
	s := storeWith(t, "mine")
	first := ensure(t, s, "mine")
	old := time.Now().Add(-2 * initramfsLife)
	if err := os.Chtimes(first.Initramfs, old, old); err != nil {
		t.Fatal(err)
	}
	put(t, s.Agent, "a newer agent")
	ensure(t, s, "mine")
	if _, err := os.Stat(first.Initramfs); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one is still there: %v", err)
	}
}

func TestADamagedInitramfsIsMadeAgain(t *testing.T) {
	s := storeWith(t, "mine")
	k := ensure(t, s, "mine")
	if err := os.Truncate(k.Initramfs, 10); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(ensure(t, s, "mine").Initramfs); err != nil || info.Size() == 10 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestAnUnknownKernelNamesTheKnownOnes(t *testing.T) {
	s := storeWith(t, "mine")
	for _, name := range []string{"none", "../mine", "", ".", "mine/..", strings.Repeat("x", 300)} {
		_, err := s.Ensure(context.Background(), name, progress.Discard)
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindNotFound {
			t.Errorf("%q gives %v", name, err)
			continue
		}
		if !strings.Contains(told.Hint, "generic-6.12, mine") {
			t.Errorf("hint is %q", told.Hint)
		}
	}
}

func TestListShowsWhatIsThereAndWhatCouldBe(t *testing.T) {
	s := storeWith(t, "mine")
	put(t, filepath.Join(s.Dir, "half", vmlinuxFile), "no record yet")
	put(t, filepath.Join(s.Dir, ".other.build", recordFile), "{}")
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range list {
		got = append(got, k.Name)
		if k.Local != (k.Name == "mine") {
			t.Errorf("%s: local is %v", k.Name, k.Local)
		}
	}
	if strings.Join(got, " ") != "debian-stable generic-6.12 mine" {
		t.Errorf("list is %v", got)
	}
	if list, err := (&Store{Dir: filepath.Join(t.TempDir(), "none")}).List(); err != nil || len(list) != len(catalog) {
		t.Errorf("a store that is not there yet lists %v, %v", list, err)
	}
}

func TestARecordOfANewerBangerIsToldNotGuessedAt(t *testing.T) {
	s := storeWith(t, "mine")
	data, err := json.Marshal(record{Format: recordFormat + 1, Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(s.Dir, "mine", recordFile), string(data))
	if _, err := s.Ensure(context.Background(), "mine", progress.Discard); err == nil || !strings.Contains(err.Error(), "format") {
		t.Errorf("error is %v", err)
	}
}

func TestAKernelOfAnOlderBangerIsAsGoodAsNone(t *testing.T) {
	s := storeWith(t, "mine")
	put(t, filepath.Join(s.Dir, "mine", recordFile), `{"format": 1, "name": "mine"}`)
	if _, err := s.load("mine"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error is %v", err)
	}
}

func TestCommitReplacesAHalfKernel(t *testing.T) {
	s := storeWith(t, "mine")
	put(t, filepath.Join(s.Dir, "second", "junk"), "of an old build")
	built := filepath.Join(t.TempDir(), "built")
	put(t, filepath.Join(built, vmlinuxFile), "whole")
	if err := s.commit(t.Context(), built, record{Format: recordFormat, Name: "second"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "second", "junk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("junk is still there: %v", err)
	}
	if _, err := s.load("second"); err != nil {
		t.Error(err)
	}
}

// bzImage packs a payload as a kernel's build does.
func bzImage(payload []byte) []byte {
	const setupSectors = 3
	image := make([]byte, (setupSectors+1)*512+64)
	image[setupSectorsAt] = setupSectors
	copy(image[headerMagicAt:], "HdrS")
	binary.LittleEndian.PutUint32(image[payloadOffsetAt:], 64)
	binary.LittleEndian.PutUint32(image[payloadLengthAt:], uint32(len(payload)))
	return append(append(image, payload...), "what follows"...)
}

func withSize(packed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(packed, uint32(size))
}

func packings(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	var gz, x, l bytes.Buffer
	gw := gzip.NewWriter(&gz)
	_, err1 := gw.Write(data)
	xw, err2 := xz.NewWriter(&x)
	_, err3 := xw.Write(data)
	lw := lz4.NewWriter(&l)
	err4 := lw.Apply(lz4.LegacyOption(true))
	_, err5 := lw.Write(data)
	zw, err6 := zstd.NewWriter(nil)
	if err := errors.Join(err1, gw.Close(), err2, err3, xw.Close(), err4, err5, lw.Close(), err6); err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"gzip":       gz.Bytes(), // its own last word is the size
		"xz":         withSize(x.Bytes(), len(data)),
		"lz4-legacy": withSize(l.Bytes(), len(data)),
		"zstd":       withSize(zw.EncodeAll(data, nil), len(data)),
	}
}

func TestExtractKernel(t *testing.T) {
	kernel := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel "), 5000)...)
	for name, packed := range packings(t, kernel) {
		got, err := extractKernel(bzImage(packed))
		if err != nil || !bytes.Equal(got, kernel) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if got, err := extractKernel(kernel); err != nil || !bytes.Equal(got, kernel) {
		t.Errorf("an ELF file is not given back: %v", err)
	}
}

func TestExtractKernelRefusesWhatIsNone(t *testing.T) {
	good := bzImage(packings(t, []byte("x"))["zstd"])
	huge := append([]byte(nil), good...)
	binary.LittleEndian.PutUint32(huge[payloadLengthAt:], 1<<31)
	claims := bzImage(withSize([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0}, maxKernel+1))
	for name, image := range map[string][]byte{
		"empty":              nil,
		"text":               bytes.Repeat([]byte("text "), 1000),
		"a payload too long": huge,
		"a size too large":   claims,
		"unknown packing":    bzImage(bytes.Repeat([]byte{1}, 64)),
		"truncated packing":  bzImage(withSize(packings(t, []byte("kernel"))["zstd"][:8], 6)),
	} {
		if _, err := extractKernel(image); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func note(name string, kind uint32, desc []byte) []byte {
	var b []byte
	for _, word := range []uint32{uint32(len(name) + 1), uint32(len(desc)), kind} {
		b = binary.LittleEndian.AppendUint32(b, word)
	}
	pad := func(b []byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
	return append(append(b, pad([]byte(name+"\x00"))...), pad(desc)...)
}

func TestHasPVHNote(t *testing.T) {
	build := note("Linux", 0x100, []byte("6.12.1"))
	entry := note("Xen", xenNotePhysEntry, []byte{0x50, 0x08, 0, 1})
	for name, c := range map[string]struct {
		notes []byte
		want  bool
	}{
		"first":        {entry, true},
		"after others": {append(append([]byte(nil), build...), entry...), true},
		"another type": {note("Xen", 17, nil), false},
		"another name": {note("Xenon", xenNotePhysEntry, nil), false},
		"cut short":    {entry[:len(entry)-1], false},
		"none":         {nil, false},
	} {
		if got := hasPVHNote(c.notes); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestCheckKernelWantsAnELFFile(t *testing.T) {
	if err := checkKernel(strings.NewReader("no kernel")); err == nil {
		t.Error("text was accepted")
	}
}

func TestWithoutSignature(t *testing.T) {
	signature := append([]byte("signature"), make([]byte, 8)...)
	signature = binary.BigEndian.AppendUint32(signature, uint32(len("signature")))
	signed := append(append([]byte("module"), signature...), signatureMagic...)
	if got := withoutSignature(signed); string(got) != "module" {
		t.Errorf("left is %q", got)
	}
	tooLong := append(make([]byte, 8), 0xff, 0xff, 0xff, 0xff)
	for _, whole := range []string{"", "module", signatureMagic, string(tooLong) + signatureMagic} {
		if got := withoutSignature([]byte(whole)); string(got) != whole {
			t.Errorf("%q became %q", whole, got)
		}
	}
}
