package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/banger-vm/banger/internal/image"
	"github.com/banger-vm/banger/internal/image/catalog"
	"github.com/banger-vm/banger/internal/progress"
)

// bundlePull compares the pull of the default image as a bundle with what zstd
// and tar do of the same file, both until it is on the disk.
func bundlePull(ctx context.Context, h *host) ([]row, error) {
	dir, err := os.MkdirTemp("/var/tmp", "banger-bench-bundle")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	entry, file, err := makeBundle(ctx, h, dir)
	if err != nil {
		return nil, err
	}
	here, err := median(ctx, 3, func() error { return pullBundle(ctx, dir, filepath.Join(dir, "store")) })
	if err != nil {
		return nil, err
	}
	there, err := median(ctx, 3, func() error { return untar(ctx, file, filepath.Join(dir, "untarred")) })
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("image pull, a bundle of %d MB", entry.Size/1_000_000)
	return []row{compare(name, here, "zstd -d | tar x, and sync", there, 1.3)}, nil
}

// makeBundle makes a bundle of the default image in dir, and a catalog that has
// it by another name: the embedded one comes first.
func makeBundle(ctx context.Context, h *host, dir string) (entry catalog.Entry, file string, err error) {
	file = filepath.Join(dir, "bundle.tar.zst")
	maker := &image.Store{Dir: filepath.Join(h.store, "images")}
	if entry, err = maker.Export(ctx, "debian-bookworm", file, progress.Discard); err != nil {
		return entry, "", err
	}
	entry.Name = "bench-bundle"
	text, err := json.Marshal(catalog.File{Format: catalog.Format}.With(entry))
	if err != nil {
		return entry, "", err
	}
	return entry, file, os.WriteFile(filepath.Join(dir, catalog.FileName), text, 0o644)
}

func pullBundle(ctx context.Context, folder, store string) error {
	defer os.RemoveAll(store)
	s := &image.Store{Dir: store, Catalogs: &catalog.Set{Sources: []string{filepath.Join(folder, catalog.FileName)}}}
	_, err := s.Ensure(ctx, "bench-bundle", progress.Discard)
	return err
}

func untar(ctx context.Context, file, to string) error {
	defer os.RemoveAll(to)
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	return quote(exec.CommandContext(ctx, "sh", "-c", `zstd -dc "$1" | tar x -C "$2" && sync -f "$2"`, "sh", file, to))
}
