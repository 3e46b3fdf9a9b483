package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// fillStore makes sure that the default image and kernel are there, which the
// suites only read: by the way that a user takes, but with a daemon of its own.
func fillStore(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "bc") // short, for sockets
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	env := append(os.Environ(), "XDG_RUNTIME_DIR="+dir, "XDG_STATE_HOME="+filepath.Join(dir, "state"))
	banger := func(ctx context.Context, args ...string) error {
		c := exec.CommandContext(ctx, "build/bin/banger", args...)
		c.Env = env
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("banger %s: %w", args[0]+" "+args[1], err)
		}
		return nil
	}
	defer banger(context.WithoutCancel(ctx), "daemon", "stop")
	if err := banger(ctx, "vm", "create", "--no-start", "--name", "store"); err != nil {
		return err
	}
	if err := banger(ctx, "vm", "delete", "store"); err != nil {
		return err
	}
	inits := exec.CommandContext(ctx, "go", "run", "./test/e2e/inits", "build/test/inits")
	inits.Stdout, inits.Stderr = os.Stdout, os.Stderr
	if err := inits.Run(); err != nil {
		return fmt.Errorf("cannot make the images with other inits: %w", err)
	}
	return nil
}
