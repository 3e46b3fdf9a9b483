package kernel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/kernel/depmod"
)

// earlyModule is a module of the initramfs.
type earlyModule struct {
	File string   `json:"file"` // below early/
	Deps []string `json:"deps,omitempty"`
}

// transport is the driver by which all other devices are found.
const transport = "virtio_mmio"

// wantedModules are what a guest's first process needs, by name: the drives,
// device-mapper, the network, the link to the host, entropy, the balloon. Those
// that a kernel has built in, or does not have at all, are left out;
// banger-init says so when it can't do without one.
var wantedModules = []string{
	transport, "virtio_blk",
	"dm_mod", "dm_bufio", "dm_zero", "dm_snapshot",
	"virtio_console", "vmw_vsock_virtio_transport",
	"virtio_net", "virtio_rng", "virtio_balloon",
}

// ext4Modules are what the root filesystem needs where it is a module; the
// first two it asks for by what they do, not by their symbols.
var ext4Modules = []string{"crc32c_generic", "libcrc32c", "ext4"}

// afterTransport are drivers that wait for the transport, though they don't
// need its symbols: drives must get their names in the order in which they were
// given to the machine, and they do when their driver finds all of them there.
var afterTransport = []string{
	"virtio_blk", "virtio_console", "vmw_vsock_virtio_transport", "virtio_net", "virtio_rng", "virtio_balloon",
}

// unpackModules turns the package's modules in from into a tree in to that any
// program can load from, also one that knows no compression, with the indexes
// that modprobe reads. release is the kernel's, and the name of the directory.
func unpackModules(ctx context.Context, from, to string) (*depmod.Tree, error) {
	paths, err := modulePaths(from)
	if err != nil {
		return nil, err
	}
	modules := make([]*depmod.Module, len(paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			m, err := unpackModule(from, to, path)
			modules[i] = m
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return indexModules(from, to, modules)
}

// modulePaths lists the modules below dir, relative to it.
func modulePaths(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") {
			paths = append(paths, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernel's modules: %w", err)
	}
	return paths, nil
}

func unpackModule(from, to, path string) (*depmod.Module, error) {
	data, err := os.ReadFile(filepath.Join(from, path))
	if err != nil {
		return nil, fmt.Errorf("cannot read a kernel module: %w", err)
	}
	data, err = decompressModule(path, data)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack kernel module %s: %w", path, err)
	}
	data = withoutSignature(data)
	name := path[:strings.LastIndex(path, ".ko")+len(".ko")]
	if err := writeFile(filepath.Join(to, name), data); err != nil {
		return nil, fmt.Errorf("cannot unpack kernel module %s: %w", path, err)
	}
	return depmod.Read(name, data)
}

func writeFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o644)
}

func decompressModule(path string, data []byte) ([]byte, error) {
	r, err := moduleReader(path, data)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func moduleReader(path string, data []byte) (io.Reader, error) {
	packed := bytes.NewReader(data)
	switch filepath.Ext(path) {
	case ".ko":
		return packed, nil
	case ".xz":
		return xz.NewReader(packed, 0)
	case ".zst":
		return zstd.NewReader(packed, zstd.WithDecoderConcurrency(1))
	case ".gz":
		return gzip.NewReader(packed)
	}
	return nil, errors.New("it is packed in an unknown way")
}

// The end of a signed module (linux/module_signature.h): the signature, a
// struct whose last field is the signature's length, big-endian, and a magic.
const (
	signatureMagic  = "~Module signature appended~\n"
	signatureStruct = 12
)

// withoutSignature takes off a module's signature. The package's own was
// checked; in a guest without hardware virtualization the kernel would need
// longer to check that of each module again (70 million instructions) than for
// all the rest of loading it. Guests' kernels don't demand signatures.
func withoutSignature(module []byte) []byte {
	rest, signed := bytes.CutSuffix(module, []byte(signatureMagic))
	if !signed || len(rest) < signatureStruct {
		return module
	}
	length := int64(binary.BigEndian.Uint32(rest[len(rest)-4:]))
	end := int64(len(rest)) - signatureStruct - length
	if end < 0 {
		return module
	}
	return module[:end]
}

// indexModules writes what depmod would.
func indexModules(from, to string, modules []*depmod.Module) (*depmod.Tree, error) {
	text := map[string]string{}
	for _, name := range []string{"modules.order", "modules.builtin", "modules.builtin.modinfo"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot read the kernel's list of modules: %w", err)
		}
		text[name] = string(data)
	}
	tree := depmod.NewTree(modules, text["modules.order"])
	files := tree.Files(depmod.Builtin{List: text["modules.builtin"], Info: text["modules.builtin.modinfo"]})
	for name, data := range text {
		files[name] = []byte(data)
	}
	for name, data := range files {
		if err := writeFile(filepath.Join(to, name), data); err != nil {
			return nil, fmt.Errorf("cannot write the index of modules: %w", err)
		}
	}
	return tree, nil
}

// pickEarly gives the modules for the initramfs in an order in which they can
// be loaded, each with those that it waits for.
func pickEarly(tree *depmod.Tree) []*depmod.Module {
	var picked []*depmod.Module
	wanted := wantedModules
	if tree.Find("ext4") != nil {
		wanted = append(slices.Clone(wanted), ext4Modules...)
	}
	for _, name := range wanted {
		m := tree.Find(name)
		if m == nil {
			continue
		}
		for _, next := range append(tree.Deps(m), m) {
			if !slices.Contains(picked, next) {
				picked = append(picked, next)
			}
		}
	}
	return picked
}

// copyEarly copies the modules for the initramfs from the tree to dir.
func copyEarly(tree *depmod.Tree, root, dir string) ([]earlyModule, error) {
	var early []earlyModule
	for _, m := range pickEarly(tree) {
		data, err := os.ReadFile(filepath.Join(root, m.Path))
		if err != nil {
			return nil, fmt.Errorf("cannot copy a kernel module: %w", err)
		}
		file := filepath.Base(m.Path)
		if err := writeFile(filepath.Join(dir, file), data); err != nil {
			return nil, fmt.Errorf("cannot copy a kernel module: %w", err)
		}
		early = append(early, earlyModule{File: file, Deps: earlyDeps(tree, m)})
	}
	return early, nil
}

func earlyDeps(tree *depmod.Tree, m *depmod.Module) []string {
	var deps []string
	if t := tree.Find(transport); t != nil && slices.Contains(afterTransport, m.Name()) {
		deps = append(deps, filepath.Base(t.Path))
	}
	for _, dep := range tree.Deps(m) {
		deps = append(deps, filepath.Base(dep.Path))
	}
	return deps
}
