package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/banger-vm/banger/internal/progress"
)

// repository makes dir/apt, one that apt can install packages of a name from,
// by `deb [trusted=yes] URL ./`.
func repository(ctx context.Context, dir, name string) error {
	repo := filepath.Join(dir, "apt")
	if _, err := os.Stat(repo); err == nil {
		return nil
	}
	archive, err := open(ctx, dir)
	if err != nil {
		return err
	}
	packages, err := archive.Resolve(name)
	if err != nil {
		return err
	}
	debs, err := archive.Download(ctx, packages, progress.Discard)
	if err != nil {
		return err
	}
	part := repo + ".part"
	if err := errors.Join(os.RemoveAll(part), os.Mkdir(part, 0o755)); err != nil {
		return err
	}
	for _, deb := range debs {
		if err := os.Link(deb, filepath.Join(part, filepath.Base(deb)+".deb")); err != nil {
			return err
		}
	}
	scan := exec.CommandContext(ctx, "dpkg-scanpackages", ".")
	scan.Dir = part
	index, err := scan.Output()
	if err != nil {
		return fmt.Errorf("dpkg-scanpackages: %w", err)
	}
	if err := os.WriteFile(filepath.Join(part, "Packages"), index, 0o644); err != nil {
		return err
	}
	return os.Rename(part, repo)
}

// slim lets mmdebstrap make dir/slim.tar, what is in a slim container image of
// Debian: apt and what is required, without manuals and documentation.
func slim(ctx context.Context, dir string) error {
	path := filepath.Join(dir, "slim.tar")
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	part := filepath.Join(dir, "slim.part.tar") // its end tells mmdebstrap what to make
	said, err := exec.CommandContext(ctx, "mmdebstrap", "--mode=root", "--variant=minbase", "--include=apt",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
		"", part, "deb [trusted=yes] copy:"+filepath.Join(dir, "apt")+" ./").CombinedOutput()
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, said)
	}
	return os.Rename(part, path)
}
