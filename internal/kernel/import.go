package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/kernel/depmod"
	"github.com/banger-vm/banger/internal/progress"
)

// Files are those of a kernel that is on the host already, as absolute paths.
type Files struct {
	Vmlinux string // an ELF file or a bzImage
	// Modules is the directory of its modules: /lib/modules/<release>, or one
	// above it. "" when it has none.
	Modules string
	// Initrd has modules in it that Modules lacks; nothing else of it is used.
	Initrd string
}

// The steps of an import beside those of a build.
const (
	stepRead  = "read the kernel"
	stepCheck = "check that the kernel can start a VM"
)

// ImportSteps gives the names of all steps of an import, in their order.
func ImportSteps() []string { return []string{stepRead, stepModules, stepCheck, stepDrive, stepCommit} }

// Import takes a kernel into the store. One that can't start a VM is refused; of
// what it lacks besides, a warning is reported. The files stay as they are and
// are not needed afterwards. Errors carry an *api.Error: bad-request, exists or
// no-space.
func (s *Store) Import(ctx context.Context, name string, files Files, report progress.Func) (Kernel, error) {
	if err := checkImport(name, files); err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return Kernel{}, fmt.Errorf("cannot make the kernel store: %w", err)
	}
	unlock, err := s.lock(ctx, name, report)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	if _, err := s.load(name); !errors.Is(err, fs.ErrNotExist) {
		return Kernel{}, taken(name, fmt.Sprintf("choose another name, or `banger kernel delete %s` first", name))
	}
	rec, err := s.importFiles(ctx, name, files, report)
	if err != nil {
		return Kernel{}, explain(fmt.Errorf("cannot import kernel %s: %w", name, err))
	}
	return s.kernel(rec), nil
}

func checkImport(name string, files Files) error {
	bad := func(hint, format string, args ...any) error {
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
	}
	if !validName(name) {
		return bad("use lower-case letters, digits, and . - or _ inside; at most 63 characters", "%q is no name for a kernel", name)
	}
	for _, entry := range catalog {
		if entry.Name == name {
			return taken(name, "it is a kernel of the catalog; choose another name")
		}
	}
	for _, f := range []struct {
		path string
		dir  bool
	}{{files.Vmlinux, false}, {files.Modules, true}, {files.Initrd, false}} {
		if f.path == "" && f.path != files.Vmlinux {
			continue
		}
		if !filepath.IsAbs(f.path) {
			return bad("give the whole path, beginning with /", "%q is not an absolute path", f.path)
		}
		info, err := os.Stat(f.path)
		if err != nil {
			return bad("it must exist and be readable by bangerd", "cannot use %s: %v", f.path, errors.Unwrap(err))
		}
		if f.dir != info.IsDir() || !f.dir && !info.Mode().IsRegular() {
			return bad("--vmlinux and --initrd are files, --modules is a directory", "%s is not of the right kind", f.path)
		}
	}
	return nil
}

func taken(name, hint string) error {
	return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("there is a kernel %s already", name), Hint: hint}
}

// importFiles is an import under the kernel's lock.
func (s *Store) importFiles(ctx context.Context, name string, files Files, report progress.Func) (record, error) {
	work := filepath.Join(s.Dir, "."+name+".build")
	if err := freshDir(work); err != nil {
		return record{}, err
	}
	defer os.RemoveAll(work) // gone already when all went well
	kernel, tree := filepath.Join(work, "kernel"), filepath.Join(work, "tree")
	s.step(stepRead, report)
	vmlinux, err := readVmlinux(files.Vmlinux)
	if err != nil {
		return record{}, refused(err)
	}
	rec := record{Format: recordFormat, Name: name, Source: SourceImported, Created: time.Now().UTC(), Package: files.Vmlinux}
	if rec.Release, err = releaseOf(vmlinux); err != nil {
		return record{}, refused(err)
	}
	rec.Version = rec.Release
	s.step(stepModules, report)
	from, err := gatherModules(files, rec.Release, filepath.Join(work, "gathered"))
	if err != nil {
		return record{}, refused(err)
	}
	modules, err := unpackModules(ctx, from, filepath.Join(tree, rec.Release))
	if err != nil {
		return record{}, refused(err)
	}
	s.step(stepCheck, report)
	if err := look(vmlinux, modules, from, &rec, report); err != nil {
		return record{}, refused(err)
	}
	if err := s.assembleImport(ctx, vmlinux, modules, tree, kernel, &rec, report); err != nil {
		return record{}, err
	}
	s.step(stepCommit, report)
	return rec, s.commit(ctx, kernel, rec)
}

// refused is a kernel that is not right, which is its giver's matter.
func refused(err error) error {
	return &api.Error{
		Kind: api.KindBadRequest, Message: err.Error(),
		Hint: "docs/how-to/kernels.md says what a kernel needs; nothing was changed",
	}
}

func readVmlinux(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel: %w", err)
	}
	if info.Size() > maxKernel {
		return nil, fmt.Errorf("the kernel is larger than %d MiB: strip its debugging information", maxKernel>>20)
	}
	image, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel: %w", err)
	}
	vmlinux, err := extractKernel(image)
	if err != nil {
		return nil, err
	}
	return vmlinux, checkMachine(vmlinux)
}

// gatherModules gives a directory with the modules of a release, gathered in
// work when they come from several places; empty when there are none.
func gatherModules(files Files, release, work string) (string, error) {
	from := ""
	if files.Modules != "" {
		if from = findModules(files.Modules, release); from == "" {
			return "", fmt.Errorf("cannot find modules of %s in %s: the kernel and its modules must be of one release", release, files.Modules)
		}
	}
	if files.Initrd == "" && from != "" {
		return from, nil
	}
	if err := os.MkdirAll(work, 0o755); err != nil {
		return "", err
	}
	if from != "" {
		if err := os.CopyFS(work, os.DirFS(from)); err != nil {
			return "", fmt.Errorf("cannot copy the modules: %w", err)
		}
	}
	if files.Initrd == "" {
		return work, nil
	}
	return work, initrdModules(files.Initrd, release, work)
}

// findModules looks for a release's modules in dir and below it.
func findModules(dir, release string) string {
	for _, at := range []string{"lib/modules/" + release, "usr/lib/modules/" + release, release} {
		if info, err := os.Stat(filepath.Join(dir, at)); err == nil && info.IsDir() {
			return filepath.Join(dir, at)
		}
	}
	if filepath.Base(filepath.Clean(dir)) == release {
		return dir
	}
	return ""
}

// look finds out what the kernel can do, writes it into rec and reports what
// it lacks.
func look(vmlinux []byte, modules *depmod.Tree, from string, rec *record, report progress.Func) error {
	list, err := os.ReadFile(filepath.Join(from, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot read the kernel's list of modules: %w", err)
	}
	survey := newSurvey(vmlinux, modules, string(list))
	found, err := survey.report()
	if err != nil {
		return err
	}
	if err := checkKernel(bytes.NewReader(vmlinux)); err != nil {
		found.Missing = append(found.Missing, "it has no PVH entry: it does not work on fcqemu")
	}
	rec.NoDeviceMapper, rec.HZ = found.NoDeviceMapper, survey.config.hz()
	for _, sentence := range found.Missing {
		report(progress.Event{Step: stepCheck, Warning: true, Detail: sentence})
	}
	if len(found.Unknown) > 0 {
		report(progress.Event{Step: stepCheck, Warning: true, Detail: "it can't be known without starting it whether it has " +
			strings.Join(found.Unknown, ", ") + ": the kernel carries no configuration (CONFIG_IKCONFIG), and " + noList(from)})
	}
	return nil
}

// noList says why the modules, which are in the directory from, do not tell
// what is built in.
func noList(from string) string {
	if there, err := os.ReadDir(from); err == nil && len(there) == 0 {
		return "no --modules are given: what it has as modules, it has not"
	}
	return "its modules no list of what is built in"
}

// assembleImport writes the files of the kernel.
func (s *Store) assembleImport(ctx context.Context, vmlinux []byte, modules *depmod.Tree, tree, kernel string, rec *record, report progress.Func) error {
	if err := writeFile(filepath.Join(kernel, vmlinuxFile), vmlinux); err != nil {
		return fmt.Errorf("cannot write the kernel: %w", err)
	}
	if err := syncFile(filepath.Join(kernel, vmlinuxFile)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(kernel, earlyDir), 0o755); err != nil {
		return fmt.Errorf("cannot write the kernel: %w", err)
	}
	var err error
	if rec.Early, err = keepEarly(modules, filepath.Join(tree, rec.Release), filepath.Join(kernel, earlyDir)); err != nil {
		return err
	}
	s.step(stepDrive, report)
	return buildDrive(ctx, tree, filepath.Join(kernel, modulesFile))
}
