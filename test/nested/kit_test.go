//go:build nested

package nested

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/kernel"
	"github.com/banger-vm/banger/internal/progress"
)

// kit is what a test machine gets: files by their path in the kit.
type kit struct {
	files  map[string]string // path in the kit -> file on this host
	kernel kernel.Kernel     // with the initramfs of this build
	image  image.Image
}

// in is where a file of the kit is in a place.
func (k *kit) in(p place, name string) string {
	return filepath.Join(p.kit(), name)
}

// pack builds the programs of some suites and gathers them with this build and
// firecracker.
func pack(t testing.TB, suites ...suite) *kit {
	t.Helper()
	dir := t.TempDir()
	k := &kit{files: map[string]string{"firecracker": firecrackerBinary(t)}}
	k.openStore(t)
	k.files["initramfs"] = k.kernel.Initramfs
	k.addTree(t, "build/bin", filepath.Join(buildDir, "bin"))
	k.addTree(t, "build/lib/banger", filepath.Join(buildDir, "lib/banger"))
	for _, s := range suites {
		k.files[s.program()] = s.build(t, dir)
	}
	k.addTree(t, "life/testdata", filepath.Join(root, "test/e2e/testdata"))
	k.files["testguest"] = filepath.Join(dir, "testguest")
	goBuild(t, "build", "-trimpath", "-ldflags=-s -w", "-o", k.files["testguest"], "./internal/firecracker/fctest/testguest")
	k.files["clockjump"] = filepath.Join(dir, "clockjump")
	goBuild(t, "build", "-trimpath", "-ldflags=-s -w", "-o", k.files["clockjump"], "./test/e2e/clockjump")
	return k
}

// openStore finds the default kernel and image, or has them built as banger
// does.
func (k *kit) openStore(t testing.TB) {
	t.Helper()
	archive := debian.Options{Cache: filepath.Join(cacheDir(t), "banger/debian")}
	companions := filepath.Join(buildDir, "lib/banger")
	kernels := kernel.Store{
		Dir: filepath.Join(dataDir(), "banger/kernels"), Debian: archive,
		Init: filepath.Join(companions, "banger-init"), Agent: filepath.Join(companions, "banger-vsock-agent"),
	}
	images := image.Store{Dir: filepath.Join(dataDir(), "banger/images"), Cache: filepath.Join(cacheDir(t), "banger"), Debian: archive}
	var err error
	if k.kernel, err = kernels.Ensure(t.Context(), kernelName, progress.Discard); err != nil {
		t.Fatal(err)
	}
	if k.image, err = images.Ensure(t.Context(), imageName, progress.Discard); err != nil {
		t.Fatal(err)
	}
}

// firecrackerBinary is what FIRECRACKER_BIN names, else the one of a known
// hash.
func firecrackerBinary(t testing.TB) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(root, "scripts/fetch-firecracker.sh"))
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cannot get firecracker: %v\n%s", err, complaint.String())
	}
	return strings.TrimSpace(string(out))
}

func (k *kit) addTree(t testing.TB, to, from string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(from, path)
		k.files[filepath.Join(to, name)] = path
		return err
	})
	if err != nil {
		t.Fatalf("cannot pack what was built (make build): %v", err)
	}
}

// makeDrive makes an ext4 file of files. They go in by debugfs, which needs no
// copy of them in a tree, no mount, and leaves holes holes.
func makeDrive(path string, files map[string]string) error {
	commands, size, err := driveCommands(files)
	if err != nil {
		return err
	}
	mib := size>>20*9/8 + 64
	if err := tool(nil, "mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b", "4096", path, fmt.Sprintf("%dM", mib)); err != nil {
		return err
	}
	return tool(commands, "debugfs", "-w", "-f", "-", path)
}

// driveCommands are debugfs' commands, and the bytes that the files have.
func driveCommands(files map[string]string) ([]byte, int64, error) {
	var commands bytes.Buffer
	var size int64
	made := map[string]bool{".": true}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		makeParents(&commands, made, filepath.Dir(name))
		info, err := os.Stat(files[name])
		if err != nil {
			return nil, 0, err
		}
		size += info.Size()
		fmt.Fprintf(&commands, "write \"%s\" \"%s\"\n", files[name], name)
	}
	return commands.Bytes(), size, nil
}

func makeParents(commands *bytes.Buffer, made map[string]bool, dir string) {
	if made[dir] {
		return
	}
	made[dir] = true
	makeParents(commands, made, filepath.Dir(dir))
	fmt.Fprintf(commands, "mkdir \"%s\"\n", dir)
}

// tool runs a program of e2fsprogs, which may be in a directory that only
// root's PATH has. debugfs ends with status 0 also when a command failed, but
// then says so.
func tool(stdin []byte, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	if path, err := exec.LookPath(filepath.Join("/usr/sbin", name)); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	cmd.Stdin = bytes.NewReader(stdin)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	err := cmd.Run()
	said := strings.TrimSpace(complaint.String())
	_, said, _ = strings.Cut(said+"\n", "\n") // without debugfs' greeting
	if err == nil && strings.TrimSpace(said) != "" && name == "debugfs" {
		err = fmt.Errorf("it says")
	}
	if err != nil {
		return fmt.Errorf("cannot make a drive: %s: %w: %s", name, err, complaint.String())
	}
	return nil
}

// storeDrive is the drive with the image and the kernel, which is kept from
// run to run: it is large, and its content seldom changes.
func storeDrive(t testing.TB, dataDir string) string {
	t.Helper()
	files := storeFiles(t, dataDir)
	dir := filepath.Join(cacheDir(t), "banger/test")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "store-"+identity(t, files)+".ext4")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	old, _ := filepath.Glob(filepath.Join(dir, "store-*"))
	for _, p := range old {
		os.Remove(p)
	}
	unfinished := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := makeDrive(unfinished, files); err != nil {
		os.Remove(unfinished)
		t.Fatal(err)
	}
	if err := os.Rename(unfinished, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// storeFiles are the default image and kernel, without the initramfs: banger
// makes that anew, of the present build.
func storeFiles(t testing.TB, dataDir string) map[string]string {
	k := &kit{files: map[string]string{}}
	for _, dir := range []string{"images/" + imageName, "kernels/" + kernelName} {
		k.addTree(t, dir, filepath.Join(dataDir, "banger", dir))
	}
	maps.DeleteFunc(k.files, func(name, _ string) bool { return strings.HasPrefix(filepath.Base(name), "initramfs") })
	return k.files
}

// identity changes when any of the files does.
func identity(t testing.TB, files map[string]string) string {
	sum := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		info, err := os.Stat(files[name])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(sum, name, info.Size(), info.ModTime().UnixNano())
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// dataDir is the XDG_DATA_HOME with the store of images and kernels.
func dataDir() string {
	return or(os.Getenv("E2E_STORE"), or(os.Getenv("XDG_DATA_HOME"), filepath.Join(os.Getenv("HOME"), ".local/share")))
}

func cacheDir(t testing.TB) string {
	dir, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
