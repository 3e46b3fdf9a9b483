package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// host is the banger under test: a state directory of its own, the user's store
// of images and kernels.
type host struct {
	build string
	store string
	dir   string
	env   []string
}

func newHost() (*host, error) {
	repo, err := repository()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/tmp", "bb")
	if err != nil {
		return nil, err
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(os.Getenv("HOME"), ".local", "share")
	}
	h := &host{build: filepath.Join(repo, "build"), store: filepath.Join(data, "banger"), dir: dir}
	h.env = append(os.Environ(),
		"XDG_RUNTIME_DIR="+dir,
		"XDG_STATE_HOME="+filepath.Join(dir, "state"),
		"XDG_DATA_HOME="+data,
		"BANGER_BRIDGE_NAME=bb0", "BANGER_BRIDGE_IP=10.78.0.1", "BANGER_CIDR=10.78.0.0/24",
	)
	return h, nil
}

func (h *host) close() {
	_ = h.banger("daemon", "stop").Run()
	os.RemoveAll(h.dir)
}

// String names the kind of machine.
func (h *host) String() string {
	model := "unknown processor"
	if data, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(data)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var uts unix.Utsname
	_ = unix.Uname(&uts)
	return fmt.Sprintf("%s, %d processors, Linux %s", model, runtime.NumCPU(), unix.ByteSliceToString(uts.Release[:]))
}

func (h *host) banger(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(h.build, "bin", "banger"), args...)
	cmd.Env = h.env
	return cmd
}

// run runs banger and quotes it when it fails.
func (h *host) run(args ...string) error { return quote(h.banger(args...)) }

func quote(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// median runs do n times and gives the middle one's time.
func median(ctx context.Context, n int, do func() error) (time.Duration, error) {
	took, err := sample(ctx, n, do)
	if err != nil {
		return 0, err
	}
	return middle(took), nil
}

// sample runs do n times and gives the time of each.
func sample(ctx context.Context, n int, do func() error) ([]time.Duration, error) {
	var took []time.Duration
	for range n {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(begun))
	}
	return took, nil
}

// awaitLine reads r until a line begins with word.
func awaitLine(r *bufio.Scanner, word string) bool {
	for r.Scan() {
		if strings.HasPrefix(r.Text(), word) {
			return true
		}
	}
	return false
}
