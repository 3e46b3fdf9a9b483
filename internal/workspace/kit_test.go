package workspace_test

import (
	"context"
	"encoding/hex"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	guest "github.com/banger-vm/banger/internal/guest/workspace"
	"github.com/banger-vm/banger/internal/workspace"
)

// TestMain gives git an identity and a home of its own.
func TestMain(m *testing.M) {
	home, err := os.MkdirTemp("", "home")
	if err != nil {
		panic(err)
	}
	for name, value := range map[string]string{
		"HOME": home, "XDG_CONFIG_HOME": "", "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_DATE": "2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE": "2026-01-02T03:04:05Z",
	} {
		os.Setenv(name, value)
	}
	os.WriteFile(filepath.Join(home, ".gitconfig"), []byte("[user]\n name = Ada\n email = ada@example.org\n[init]\n defaultBranch = main\n[protocol \"file\"]\n allow = always\n[advice]\n detachedHead = false\n"), 0o644)
	status := m.Run()
	os.RemoveAll(home)
	os.Exit(status)
}

// run runs a program in a directory and gives what it printed.
func run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	out, err := try(dir, args...)
	if err != nil {
		t.Fatalf("%s in %s: %v\n%s", strings.Join(args, " "), dir, err, out)
	}
	return out
}

func try(dir string, args ...string) (string, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	return strings.TrimSuffix(run(t, dir, append([]string{"git"}, args...)...), "\n")
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// repository makes one with two commits.
func repository(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "repo")
	check(t, os.Mkdir(dir, 0o755))
	git(t, dir, "init", "-q")
	write(t, dir, map[string]string{"a": "one\n", "dir/b": "two\n", ".gitignore": "*.o\nbuild/\n"})
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "first")
	write(t, dir, map[string]string{"a": "one\nmore\n"})
	git(t, dir, "commit", "-qam", "second")
	return dir
}

// world is a host and a guest that is a directory, with the agent's half at
// work in it.
type world struct {
	t      testing.TB
	root   string // of the guest
	store  workspace.Store
	server *guest.Server
	serve  func(net.Conn) // in place of server
	path   string         // of guests' git
	tooled []string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, root: t.TempDir(), store: workspace.Store{Dir: t.TempDir()}, path: os.Getenv("PATH")}
	w.server = &guest.Server{
		Env:     func() []string { return []string{"PATH=" + w.path, "HOME=" + w.root} },
		Tooling: func(path string) { w.tooled = append(w.tooled, path) },
	}
	return w
}

func (w *world) dial(context.Context) (io.ReadWriteCloser, error) {
	host, inside := socketPair(w.t)
	go func() {
		defer inside.Close()
		if w.serve != nil {
			w.serve(inside)
			return
		}
		w.server.Serve(inside)
	}()
	return host, nil
}

func socketPair(t testing.TB) (net.Conn, net.Conn) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	check(t, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, _ := l.Accept()
		accepted <- conn
	}()
	conn, err := net.Dial("unix", l.Addr().String())
	check(t, err)
	return conn, <-accepted
}

// unheard is for puts of which no daemon is told.
func unheard(context.Context) error { return nil }

func (w *world) target(name string) workspace.Target {
	return workspace.Target{VM: "0badcafe", Name: "box", Guest: w.at(name), Dial: w.dial, Announce: unheard}
}

func (w *world) at(name string) string { return filepath.Join(w.root, name) }

// put brings a path in, as name, and gives the directory of the guest.
func (w *world) put(path, name string, o workspace.Options) string {
	w.t.Helper()
	_, err := w.tryPut(path, w.target(name), o)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.at(name)
}

func (w *world) tryPut(path string, t workspace.Target, o workspace.Options) (workspace.Summary, error) {
	source, err := workspace.Open(w.t.Context(), path, o)
	if err != nil {
		return workspace.Summary{}, err
	}
	defer source.Close()
	return source.Put(w.t.Context(), w.store, t, nil)
}

func (w *world) look(name string) *workspace.Changes {
	w.t.Helper()
	c, err := w.store.Look(w.t.Context(), "0badcafe", w.at(name), w.dial)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	return c
}

func (w *world) diff(name string) string {
	w.t.Helper()
	var text strings.Builder
	check(w.t, w.look(name).Diff(w.t.Context(), &text))
	return text.String()
}

// tree lists a directory: names, modes, targets and contents.
func tree(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(path, dir) + " " + info.Mode().String()
		switch {
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += " " + string(data)
		case d.IsDir():
			return nil
		}
		list = append(list, line)
		return nil
	}))
	sort.Strings(list)
	return list
}

// sameHistory checks that git says in both directories the same.
func sameHistory(t testing.TB, host, in string) {
	t.Helper()
	for _, args := range [][]string{
		{"status"}, {"status", "--porcelain=v2", "--branch"}, {"diff"}, {"diff", "--cached"}, {"log", "--branches", "--tags", "--remotes", "--format=%H %an %s %d", "--decorate-refs-exclude=refs/stash"},
		{"ls-files", "--stage", "-t"}, {"for-each-ref", "--format=%(refname) %(objectname) %(upstream) %(upstream:track) %(symref)", "refs/heads", "refs/remotes", "refs/tags"},
	} {
		here, err := try(host, append([]string{"git"}, args...)...)
		there, failed := try(in, append([]string{"git"}, args...)...)
		if here != there || (err == nil) != (failed == nil) {
			t.Errorf("git %s\non the host:\n%s\nin the guest:\n%s", strings.Join(args, " "), here, there)
		}
	}
	if out, err := try(in, "git", "fsck", "--full", "--strict"); err != nil {
		t.Errorf("git fsck in the guest: %v\n%s", err, out)
	}
}

// says checks an error's text.
func says(t testing.TB, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("the error is %v, want one with %q", err, text)
	}
}

type (
	contextContext = context.Context
	closer         = io.ReadWriteCloser
)

func soon() time.Time { return time.Now().Add(300 * time.Millisecond) }

func hexBytes(oid string) []byte {
	b, err := hex.DecodeString(oid)
	if err != nil {
		panic(err)
	}
	return b
}
