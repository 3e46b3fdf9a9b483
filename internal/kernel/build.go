package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/debian"
	"github.com/banger-vm/banger/internal/kernel/depmod"
	"github.com/banger-vm/banger/internal/progress"
)

// The steps of a build, by name.
const (
	stepFind    = "find the kernel"
	stepFetch   = "download the kernel"
	stepUnpack  = "unpack the kernel"
	stepExtract = "extract the kernel"
	stepModules = "unpack the kernel's modules"
	stepDrive   = "make the kernel's modules drive"
	stepCommit  = "keep the kernel"
)

// Steps gives the names of all steps of a build, in their order.
func Steps() []string {
	return []string{stepFind, stepFetch, stepUnpack, stepExtract, stepModules, stepDrive, stepCommit}
}

// build fetches and builds a kernel of the catalog. The caller holds its lock.
func (s *Store) build(ctx context.Context, entry catalogEntry, report progress.Func) (record, error) {
	s.step(stepFind, report)
	archive, pkg, err := s.find(ctx, entry, report)
	if err != nil {
		return record{}, err
	}
	return s.buildFrom(ctx, entry, archive, pkg, report)
}

// buildFrom builds a kernel of the catalog out of its package. It closes the
// archive, as soon as it can: the archive takes more memory than the rest.
func (s *Store) buildFrom(ctx context.Context, entry catalogEntry, archive *debian.Archive, pkg debian.Package, report progress.Func) (record, error) {
	defer archive.Close()
	s.step(stepFetch, report)
	debs, err := archive.Download(ctx, []debian.Package{pkg}, report)
	if err != nil {
		return record{}, err
	}
	work := filepath.Join(s.Dir, "."+entry.Name+".build")
	if err := freshDir(work); err != nil {
		return record{}, err
	}
	defer os.RemoveAll(work) // gone already when all went well
	rec := record{
		Format: recordFormat, Name: entry.Name, Source: SourceCatalog, Created: time.Now().UTC(),
		Version: pkg.Version, Package: pkg.Name, Suite: pkg.Suite,
	}
	if err := s.unpack(ctx, debs[0], work, report); err != nil {
		return record{}, err
	}
	archive.Close()
	if err := s.assemble(ctx, work, &rec, report); err != nil {
		return record{}, err
	}
	s.step(stepCommit, report)
	return rec, s.commit(ctx, filepath.Join(work, "kernel"), rec)
}

// find picks the newest package of the first source that has one. The archive is
// for the caller to close.
func (s *Store) find(ctx context.Context, entry catalogEntry, report progress.Func) (*debian.Archive, debian.Package, error) {
	var missed []string
	for _, source := range entry.Sources {
		archive, err := debian.Open(ctx, s.Debian, report, source.Suites...)
		if err != nil {
			return nil, debian.Package{}, err
		}
		pkg, ok, err := newestOf(archive, source.Packages)
		if ok && err == nil {
			return archive, pkg, nil
		}
		archive.Close()
		if err != nil {
			return nil, debian.Package{}, err
		}
		missed = append(missed, source.Suites...)
	}
	return nil, debian.Package{}, fmt.Errorf("cannot find a package of kernel %s in %s", entry.Name, strings.Join(missed, ", "))
}

func newestOf(archive *debian.Archive, pattern string) (debian.Package, bool, error) {
	packages, err := archive.Find(pattern)
	if err != nil {
		return debian.Package{}, false, err
	}
	return newest(packages)
}

// newest gives the package of the highest version among the signed kernels.
func newest(packages []debian.Package) (best debian.Package, ok bool, err error) {
	for _, p := range packages {
		if strings.HasSuffix(p.Name, "-unsigned") || strings.HasSuffix(p.Name, "-dbg") {
			continue
		}
		order := 1
		if ok {
			if order, err = debian.CompareVersions(p.Version, best.Version); err != nil {
				return debian.Package{}, false, err
			}
		}
		if order > 0 {
			best, ok = p, true
		}
	}
	return best, ok, nil
}

// packageIn is where in a build's directory the package lies.
func packageIn(work string) string { return filepath.Join(work, "package") }

// unpack unpacks the kernel's package in work.
func (s *Store) unpack(ctx context.Context, deb, work string, report progress.Func) error {
	s.step(stepUnpack, report)
	if err := os.Mkdir(packageIn(work), 0o755); err != nil {
		return fmt.Errorf("cannot build the kernel: %w", err)
	}
	return debian.Unpack(ctx, deb, packageIn(work))
}

// assemble makes the kernel's files in work/kernel out of its package there.
func (s *Store) assemble(ctx context.Context, work string, rec *record, report progress.Func) error {
	root, tree, kernel := packageIn(work), filepath.Join(work, "tree"), filepath.Join(work, "kernel")
	for _, dir := range []string{tree, kernel} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("cannot build the kernel: %w", err)
		}
	}
	release, modulesDir, err := findRelease(root)
	if err != nil {
		return err
	}
	rec.Release = release
	if rec.HZ, err = packagedHZ(root, release); err != nil {
		return err
	}
	s.step(stepExtract, report)
	if err := writeKernel(filepath.Join(root, "boot", "vmlinuz-"+release), filepath.Join(kernel, vmlinuxFile)); err != nil {
		return err
	}
	s.step(stepModules, report)
	modules, err := unpackModules(ctx, modulesDir, filepath.Join(tree, release))
	if err != nil {
		return err
	}
	if rec.Early, err = keepEarly(modules, filepath.Join(tree, release), filepath.Join(kernel, earlyDir)); err != nil {
		return err
	}
	s.step(stepDrive, report)
	return buildDrive(ctx, tree, filepath.Join(kernel, modulesFile))
}

// keepEarly copies the modules of the initramfs, durably.
func keepEarly(modules *depmod.Tree, tree, dir string) ([]earlyModule, error) {
	early, err := copyEarly(modules, tree, dir)
	if err != nil {
		return nil, err
	}
	for _, m := range early {
		if err := syncFile(filepath.Join(dir, m.File)); err != nil {
			return nil, err
		}
	}
	return early, atomicfile.SyncDir(dir)
}

// packagedHZ reads the kernel's CONFIG_HZ from the configuration in its package;
// 0 when the package has none.
func packagedHZ(root, release string) (int, error) {
	text, err := os.ReadFile(filepath.Join(root, "boot", "config-"+release))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read the kernel's configuration: %w", err)
	}
	return parseConfig(string(text)).hz(), nil
}

// findRelease finds the one kernel release that a package's modules are for.
func findRelease(root string) (release, dir string, err error) {
	for _, at := range []string{"lib/modules", "usr/lib/modules"} {
		entries, err := os.ReadDir(filepath.Join(root, at))
		if err == nil && len(entries) == 1 {
			return entries[0].Name(), filepath.Join(root, at, entries[0].Name()), nil
		}
	}
	return "", "", errors.New("cannot find the modules in the kernel's package")
}

// writeKernel extracts the vmlinux of the image at from. It is large: it goes
// straight to the file.
func writeKernel(from, to string) error {
	image, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("cannot read the kernel: %w", err)
	}
	kernel, size, err := openKernel(image)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the kernel: %w", err)
	}
	defer file.Close()
	if _, err := io.CopyN(file, kernel, size); err != nil {
		return fmt.Errorf("cannot extract the kernel: %w", err)
	}
	if err := checkKernel(file); err != nil {
		return err
	}
	return file.Sync()
}

// freshDir makes an empty directory, whatever a killed build left there.
func freshDir(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("cannot clean up after a build: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory to build in: %w", err)
	}
	return nil
}
