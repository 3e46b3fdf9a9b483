package workspace_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/workspace"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

func TestNoSecretGoesIn(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	for _, pair := range [][2]string{
		{"remote.origin.url", "https://ada:s3cret@example.org/x.git?access_token=s3cret"},
		{"remote.origin.pushurl", "ssh://ada:s3cret@example.org/x.git"},
		{"remote.work.url", "git@example.org:x/y.git"},
		{"remote.plain.url", "/some/where"},
		{"branch.main.remote", "https://s3cret@example.org/z"},
		{"submodule.lib.url", "https://s3cret:x@example.org/lib"},
		{"submodule.lib.update", "!s3cret"},
		{"http.https://example.org/.extraheader", "AUTHORIZATION: s3cret"},
		{"http.extraheader", "s3cret"},
		{"http.proxy", "http://u:s3cret@proxy"},
		{"credential.helper", "!echo s3cret"},
		{"url.https://s3cret@example.org/.insteadof", "x:"},
		{"core.sshcommand", "ssh -i s3cret"},
		{"core.hookspath", "/s3cret"},
		{"core.fsmonitor", "s3cret"},
		{"core.editor", "s3cret"},
		{"filter.x.clean", "s3cret"},
		{"alias.x", "!s3cret"},
		{"user.signingkey", "s3cret"},
		{"remote.origin.vcs", "s3cret"},
		{"remote.origin.uploadpack", "s3cret"},
		{"pull.rebase", "true"},
	} {
		git(t, dir, "config", "--add", pair[0], pair[1])
	}
	in := newWorld(t).put(dir, "repo", asItIs)
	check(t, filepath.WalkDir(filepath.Join(in, ".git"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if bytes.Contains(data, []byte("s3cret")) {
			t.Errorf("%s has a secret in it:\n%s", path, data)
		}
		return err
	}))
	for key, want := range map[string]string{
		"remote.origin.url": "https://example.org/x.git", "remote.origin.pushurl": "ssh://example.org/x.git", "remote.work.url": "git@example.org:x/y.git",
		"remote.plain.url": "/some/where", "branch.main.remote": "https://example.org/z", "submodule.lib.url": "https://example.org/lib", "pull.rebase": "true", "user.email": "ada@example.org",
	} {
		if got := git(t, in, "config", "--local", key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

// TestHostProgramsDoNotRun has a repository that names a program wherever git
// would run one.
func TestHostProgramsDoNotRun(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	ran := filepath.Join(t.TempDir(), "ran")
	script := "#!/bin/sh\necho $0 >> " + ran + "\n"
	for _, hook := range []string{"pre-commit", "post-index-change", "reference-transaction", "post-checkout", "pre-auto-gc", "fsmonitor-watchman", "post-merge"} {
		write(t, dir, map[string]string{".git/hooks/" + hook: script})
		check(t, os.Chmod(filepath.Join(dir, ".git/hooks", hook), 0o755))
	}
	git(t, dir, "config", "core.fsmonitor", filepath.Join(dir, ".git/hooks/fsmonitor-watchman"))
	w := newWorld(t)
	in := w.put(dir, "repo", workspace.Options{Branch: "work"})
	write(t, in, map[string]string{"a": "guest\n"})
	git(t, in, "commit", "-qam", "work")
	w.put(dir, "other", workspace.Options{From: "HEAD^"})
	os.Remove(ran)
	_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if data, err := os.ReadFile(ran); err == nil {
		t.Errorf("hooks ran:\n%s", data)
	}
}

func TestBranchAndFrom(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, map[string]string{"a": "not committed\n"})
	git(t, dir, "branch", "old", "HEAD^")
	w := newWorld(t)
	in := w.put(dir, "branch", workspace.Options{Branch: "feature/x"})
	if got := git(t, in, "symbolic-ref", "HEAD"); got != "refs/heads/feature/x" {
		t.Errorf("the guest is on %s", got)
	}
	if got := git(t, in, "status", "--porcelain"); got != " M a" {
		t.Errorf("status: %q", got)
	}
	in = w.put(dir, "from", workspace.Options{From: "old"})
	if got := git(t, in, "status", "--porcelain", "--branch"); got != "## old" {
		t.Errorf("status: %q", got)
	}
	if data, _ := os.ReadFile(filepath.Join(in, "a")); string(data) != "one\n" {
		t.Errorf("a is %q", data)
	}
	in = w.put(dir, "both", workspace.Options{From: "HEAD^", Branch: "new"})
	if got := git(t, in, "status", "--porcelain", "--branch"); got != "## new" {
		t.Errorf("status: %q", got)
	}
	if got := git(t, dir, "status", "--porcelain", "--branch"); got != "## main\n M a" {
		t.Errorf("the host's status is %q", got)
	}
	for _, bad := range []struct {
		options workspace.Options
		says    string
	}{
		{workspace.Options{Branch: "main"}, "there is a branch main already"},
		{workspace.Options{Branch: "main/x"}, "can't be beside"},
		{workspace.Options{Branch: "a..b"}, "is no name for a branch"},
		{workspace.Options{Branch: "-x"}, "is no name for a branch"},
		{workspace.Options{From: "nowhere"}, "there is no commit"},
		{workspace.Options{From: "--help"}, "there is no commit"},
	} {
		_, err := workspace.Open(t.Context(), dir, bad.options)
		says(t, err, bad.says)
	}
	_, err := workspace.Open(t.Context(), t.TempDir(), workspace.Options{Branch: "x"})
	says(t, err, "is no git repository")
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	repo := repository(t)
	bare := filepath.Join(t.TempDir(), "bare.git")
	git(t, repo, "clone", "-q", "--bare", repo, bare)
	merging := repository(t)
	git(t, merging, "checkout", "-qb", "side", "HEAD^")
	write(t, merging, map[string]string{"a": "other\n"})
	git(t, merging, "commit", "-qam", "side")
	try(merging, "git", "merge", "main")
	conflict := repository(t)
	write(t, conflict, map[string]string{"a": "mine\n"})
	git(t, conflict, "stash")
	write(t, conflict, map[string]string{"a": "theirs\n"})
	git(t, conflict, "commit", "-qam", "theirs")
	try(conflict, "git", "stash", "pop")
	for path, want := range map[string]string{
		filepath.Join(repo, "nothing"): "there is no directory",
		filepath.Join(repo, "a"):       "is a file",
		bare:                           "is a bare repository",
		filepath.Join(repo, ".git"):    "is a bare repository",
		filepath.Join(repo, "dir"):     "within the repository",
		merging:                        "in the middle of a merge",
		conflict:                       "has conflicts, a for one",
		"/":                            "whole host",
	} {
		_, err := workspace.Open(t.Context(), path, asItIs)
		says(t, err, want)
	}
}

func TestOnlyChangesTravel(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	sum, err := w.tryPut(dir, w.target("repo"), asItIs)
	check(t, err)
	if sum.Files != 0 || !sum.Update {
		t.Errorf("nothing had changed, and %+v went in", sum)
	}
	write(t, in, map[string]string{"build/out": "made in the guest\n", "mine": "the guest's\n"})
	write(t, dir, map[string]string{"a": "changed\n", "new/deep": "new\n"})
	check(t, os.Remove(filepath.Join(dir, "dir/b")))
	sum, err = w.tryPut(dir, w.target("repo"), asItIs)
	check(t, err)
	if sum.Files != 2 || sum.Removed != 1 {
		t.Errorf("%+v went in", sum)
	}
	if got := git(t, in, "status", "--porcelain"); got != " M a\n D dir/b\n?? mine\n?? new/" {
		t.Errorf("status: %q", got)
	}
	if _, err := os.Stat(filepath.Join(in, "build/out")); err != nil {
		t.Error("what the guest has built is gone")
	}
	// Commits travel, and what becomes a directory or a link.
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-qm", "third")
	check(t, os.Remove(filepath.Join(dir, "a")))
	write(t, dir, map[string]string{"a/below": "x\n"})
	check(t, os.RemoveAll(filepath.Join(dir, "new")))
	check(t, os.Symlink("a", filepath.Join(dir, "new")))
	w.put(dir, "repo", asItIs)
	check(t, os.Remove(filepath.Join(in, "mine")))
	check(t, os.RemoveAll(filepath.Join(in, "build")))
	sameHistory(t, dir, in)
	if here, there := tree(t, dir), tree(t, in); !slices.Equal(here, there) {
		t.Errorf("%q, want %q", there, here)
	}
	// A workspace that is gone goes in whole.
	check(t, os.RemoveAll(in))
	w.put(dir, "repo", asItIs)
	sameHistory(t, dir, in)
}

func TestTheGuestsWorkIsNotOverwritten(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	write(t, in, map[string]string{"a": "the guest's\n"})
	write(t, dir, map[string]string{"a": "the host's\n", "dir/b": "the host's\n"})
	_, err := w.tryPut(dir, w.target("repo"), asItIs)
	var refused *workspace.Refused
	if !errors.As(err, &refused) || refused.Kind != wire.Conflict || !slices.Equal(refused.Conflicts, []string{"a"}) {
		t.Fatalf("%v", err)
	}
	if data, _ := os.ReadFile(filepath.Join(in, "dir/b")); string(data) != "two\n" {
		t.Error("a refused put has changed something")
	}
	// Commits of the guest are in the way of the host's.
	git(t, in, "commit", "-qam", "guest")
	git(t, dir, "commit", "-qam", "host")
	_, err = w.tryPut(dir, w.target("repo"), asItIs)
	if !errors.As(err, &refused) || !slices.Contains(refused.Conflicts, ".git") {
		t.Fatalf("%v", err)
	}
	// What has come back is safe, and gives way.
	_, err = w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	w.put(dir, "repo", asItIs)
	if got := git(t, in, "log", "-1", "--format=%s"); got != "host" {
		t.Errorf("the guest is at %q", got)
	}
	if got := git(t, in, "status", "--porcelain"); got != "" {
		t.Errorf("status: %q", got)
	}
	// Force is for the rest.
	write(t, in, map[string]string{"a": "again\n"})
	write(t, dir, map[string]string{"a": "the host's again\n"})
	target := w.target("repo")
	target.Force = true
	_, err = w.tryPut(dir, target, asItIs)
	check(t, err)
	if data, _ := os.ReadFile(filepath.Join(in, "a")); string(data) != "the host's again\n" {
		t.Errorf("a is %q", data)
	}
}

func TestAWorkspaceIsAnnouncedBeforeItIsThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target, told := w.target("repo"), 0
	target.Announce = func(context.Context) error {
		told++
		if _, err := os.Stat(target.Guest); !os.IsNotExist(err) {
			t.Errorf("it is there already: %v", err)
		}
		return nil
	}
	_, err := w.tryPut(repository(t), target, asItIs)
	check(t, err)
	if told != 1 {
		t.Errorf("it was told %d times", told)
	}
}

func TestSomethingElseIsNotOverwritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	write(t, w.root, map[string]string{"repo/precious": "x"})
	dir := repository(t)
	target := w.target("repo")
	target.Announce = func(context.Context) error {
		t.Error("what the guest refuses is told to be there")
		return nil
	}
	_, err := w.tryPut(dir, target, asItIs)
	var refused *workspace.Refused
	if !errors.As(err, &refused) || refused.Kind != wire.Exists {
		t.Fatalf("%v", err)
	}
	if left, _ := os.ReadDir(w.root); len(left) != 1 {
		t.Errorf("the guest has %v", left)
	}
	w.put(dir, "second", asItIs)
	_, err = w.tryPut(repository(t), w.target("second"), asItIs)
	says(t, err, "is the workspace of")
	for _, path := range []string{"relative", "/", "/a/../b", ""} {
		target := w.target("x")
		target.Guest = path
		_, err := w.tryPut(dir, target, asItIs)
		says(t, err, "is no place for a workspace")
	}
}

func TestPlainDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "plain")
	write(t, dir, map[string]string{"a": "1\n", "b/c": "2\n", "skip/x": "no\n", "b/y.log": "no\n", "b/keep.log": "yes\n", ".bangerignore": "/skip\n*.log\n!keep.log\n"})
	check(t, os.MkdirAll(filepath.Join(dir, "empty"), 0o755))
	check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	check(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	inner := filepath.Join(dir, "inner")
	git(t, dir, "clone", "-q", repository(t), inner)
	git(t, inner, "config", "http.extraheader", "s3cret")
	w := newWorld(t)
	in := w.put(dir, "plain", asItIs)
	var names []string
	for _, line := range tree(t, in) {
		name, _, _ := strings.Cut(line, " ")
		names = append(names, name)
	}
	want := []string{"/.bangerignore", "/a", "/b/c", "/b/keep.log", "/inner/.gitignore", "/inner/a", "/inner/dir/b", "/link"}
	if !slices.Equal(names, want) {
		t.Errorf("the guest has %q, want %q", names, want)
	}
	if _, err := os.Stat(filepath.Join(in, "empty")); err != nil {
		t.Error(err)
	}
	sameHistory(t, inner, filepath.Join(in, "inner"))
	if w.look("plain").Any() {
		t.Error("something is new")
	}
	write(t, in, map[string]string{"a": "guest\n", "new": "new\n", "skip/z": "no\n", "inner/a": "guest\n"})
	c := w.look("plain")
	pulled, err := c.Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if len(pulled) != 2 || !pulled[0].Nowhere && !pulled[1].Nowhere {
		t.Fatalf("%+v", pulled)
	}
	for _, p := range pulled {
		want := "M\ta"
		if p.Nowhere {
			want = "M\ta\nA\tnew"
		}
		if got := git(t, p.Dir, "diff", "--name-status", "banger/box^", "banger/box"); got != want {
			t.Errorf("%s: %q", p.Dir, got)
		}
	}
	if w.look("plain").Unsaved() {
		t.Error("what was pulled counts as lost")
	}
	check(t, c.Apply(t.Context()))
	if data, _ := os.ReadFile(filepath.Join(dir, "a")); string(data) != "guest\n" {
		t.Errorf("a is %q", data)
	}
}

// TestTooLittleRoom has a file that is larger than any disk here.
func TestTooLittleRoom(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	check(t, os.Truncate(filepath.Join(dir, "a"), 1<<43))
	w := newWorld(t)
	_, err := w.tryPut(dir, w.target("repo"), asItIs)
	says(t, err, "nothing was copied")
}

func TestZerosTakeNoRoom(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, map[string]string{"sparse": ""})
	file, err := os.OpenFile(filepath.Join(dir, "sparse"), os.O_WRONLY, 0)
	check(t, err)
	_, err = file.WriteAt([]byte(strings.Repeat("x", 300_000)), 5<<20)
	check(t, errors.Join(err, file.Truncate(64<<20+1), file.Close()))
	in := newWorld(t).put(dir, "repo", asItIs)
	run(t, dir, "cmp", "sparse", filepath.Join(in, "sparse"))
	var stat syscall.Stat_t
	check(t, syscall.Stat(filepath.Join(in, "sparse"), &stat))
	if stat.Blocks*512 > 4<<20 {
		t.Errorf("it takes %d bytes", stat.Blocks*512)
	}
}

func TestACutOffCopyLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, map[string]string{"big": strings.Repeat("x", 4<<20)})
	w := newWorld(t)
	w.serve = func(conn net.Conn) { w.server.Serve(&limited{conn, 1 << 20}) }
	_, err := w.tryPut(dir, w.target("repo"), asItIs)
	if err == nil {
		t.Fatal("it went well")
	}
	if left, _ := os.ReadDir(w.root); len(left) > 0 {
		t.Errorf("the guest has %v", left)
	}
	w.serve = nil
	w.put(dir, "repo", asItIs)
}

// limited is a connection that breaks.
type limited struct {
	net.Conn
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("the connection broke")
	}
	n, err := l.Conn.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func TestTooling(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	target := w.target("repo")
	target.Tooling = true
	_, err := w.tryPut(dir, target, asItIs)
	check(t, err)
	if len(w.tooled) > 0 {
		t.Error("there is nothing to install")
	}
	write(t, dir, map[string]string{".tool-versions": "node 22\n"})
	_, err = w.tryPut(dir, target, asItIs)
	check(t, err)
	if !slices.Equal(w.tooled, []string{target.Guest}) {
		t.Errorf("%q", w.tooled)
	}
}
