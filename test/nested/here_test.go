//go:build nested

package nested

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// here is this host, where KVM can run firecracker.
type here struct {
	kitDir, dataDir string
}

// newHere copies the kit, so that it lies as it does in a guest.
func newHere(t testing.TB, k *kit) here {
	t.Helper()
	h := here{kitDir: t.TempDir(), dataDir: dataDir()}
	for name, file := range k.files {
		if err := copyFile(filepath.Join(h.kitDir, name), file); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func copyFile(to, from string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, content, info.Mode().Perm())
}

func (h here) kit() string  { return h.kitDir }
func (h here) data() string { return h.dataDir }
func (h here) why() string  { return "" }

// watch is for a machine that can hang alone: this one runs the test itself.
func (h here) watch(ctx context.Context) (context.Context, func()) { return ctx, func() {} }

func (h here) run(ctx context.Context, out io.Writer, j job) (int, error) {
	cmd := exec.CommandContext(ctx, j.argv[0], j.argv[1:]...)
	cmd.Env = os.Environ()
	for name, value := range j.env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Dir = j.dir
	cmd.Stdout, cmd.Stderr = out, out
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), context.Cause(ctx)
	}
	return 0, err
}

func (h here) output(t testing.TB, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	status, err := h.run(t.Context(), &out, job{argv: argv})
	if err != nil || status != 0 {
		t.Fatalf("%v: status %d, %v\n%s", argv, status, err, out.String())
	}
	return out.String()
}
