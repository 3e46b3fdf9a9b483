package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

var files = flag.Int("files", 100_000, "how many files the repository of the workspace measure has")

// fileSize is a small file's.
const fileSize = 1200

// workspaces compares the copy of a repository of many small files with tar over
// ssh and with rsync, and times a further copy with ten changes.
func workspaces(ctx context.Context, h *host) ([]row, error) {
	repo := filepath.Join(h.dir, "many")
	if err := manyFiles(repo); err != nil {
		return nil, err
	}
	if err := h.run("vm", "create", "--name", "repo", "--wait", "system"); err != nil {
		return nil, err
	}
	defer h.run("vm", "delete", "--force", "repo")
	ours, err := timed(func() error { return h.run("vm", "workspace", "prepare", "repo", repo) })
	if err != nil {
		return nil, err
	}
	for i := range 10 {
		if err := os.WriteFile(smallFile(repo, i*(*files/10)), []byte("changed\n"), 0o644); err != nil {
			return nil, err
		}
	}
	again, err := timed(func() error { return h.run("vm", "workspace", "prepare", "repo", repo) })
	if err != nil {
		return nil, err
	}
	banger := filepath.Join(h.build, "bin", "banger")
	tar, err := timed(func() error {
		return h.shell(fmt.Sprintf("tar -C %s -c . | %s vm ssh repo -T -- 'mkdir /root/tar && tar -C /root/tar -x'", repo, banger))
	})
	if err != nil {
		return nil, err
	}
	wrapper := filepath.Join(h.dir, "rsh")
	if err := os.WriteFile(wrapper, []byte("#!/bin/sh\nshift\nexec "+banger+" vm ssh repo -T -- \"$*\"\n"), 0o755); err != nil {
		return nil, err
	}
	rsync, err := timed(func() error { return h.shell(fmt.Sprintf("rsync -a -e %s %s/ guest:/root/rsync/", wrapper, repo)) })
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("vm workspace prepare, %d files", *files)
	return []row{
		rated(what, ours, "tar c | vm ssh -- tar x", tar, 0.5),
		rated(what, ours, "rsync -a", rsync, 0),
		compare("the same again, ten changes", again, "promised", time.Second, 1),
	}, nil
}

// rated is a row of two durations, with what they mean for each file and byte.
func rated(name string, here time.Duration, against string, there time.Duration, limit float64) row {
	r := compare(name, here, against, there, limit)
	r.value = rates(here)
	r.against = against + ": " + rates(there)
	return r
}

func rates(d time.Duration) string {
	return fmt.Sprintf("%.0f files/s, %.1f MB/s", float64(*files)/d.Seconds(), float64(*files)*fileSize/1e6/d.Seconds())
}

func timed(do func() error) (time.Duration, error) {
	begun := time.Now()
	err := do()
	return time.Since(begun), err
}

// shell runs a line of shell, quoted when it fails.
func (h *host) shell(line string) error {
	cmd := exec.Command("sh", "-c", line)
	cmd.Env = h.env
	return quote(cmd)
}

func smallFile(repo string, i int) string {
	return filepath.Join(repo, fmt.Sprintf("dir%d/part%d/file%d", i%100, i/100%10, i))
}

// manyFiles makes a repository of small files with one commit, packed.
func manyFiles(repo string) error {
	for i := range *files {
		path := smallFile(repo, i)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		text := strings.Repeat(fmt.Sprintf("line %d of a small file\n", i), fileSize/20)[:fileSize]
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{"init", "-q"}, {"add", "."}, {"-c", "user.name=b", "-c", "user.email=b@localhost", "commit", "-qm", "all"}, {"repack", "-adq"},
	} {
		cmd := exec.Command("git", args...)
		cmd.Dir = repo
		if err := quote(cmd); err != nil {
			return err
		}
	}
	return nil
}
