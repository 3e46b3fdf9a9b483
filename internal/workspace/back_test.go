package workspace_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/workspace"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// worked is a guest in which work was done: committed, not committed, new,
// removed, a link, a mode, and things that git ignores.
func worked(t *testing.T, w *world, in string) {
	t.Helper()
	write(t, in, map[string]string{"a": "committed\n"})
	git(t, in, "commit", "-qam", "guest's commit")
	write(t, in, map[string]string{"a": "not committed\n", "new/deep/file": "new\n", "x.o": "ignored\n", "build/much": "ignored\n", "fresh/.gitignore": "*.tmp\n", "fresh/b.tmp": "ignored\n", "fresh/c": "c\n"})
	check(t, os.Remove(filepath.Join(in, "dir/b")))
	check(t, os.Symlink("/etc/shadow", filepath.Join(in, "link")))
	check(t, os.Chmod(filepath.Join(in, "new/deep/file"), 0o755))
}

const workedStatus = "M\ta\nD\tdir/b\nA\tfresh/.gitignore\nA\tfresh/c\nA\tlink\nA\tnew/deep/file"

func TestWorkComesBack(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	if c := w.look("repo"); c.Any() || c.Unsaved() {
		t.Error("something is new in a fresh workspace")
	}
	worked(t, w, in)
	before, status := tree(t, dir), git(t, dir, "status", "--porcelain", "--branch")
	text := w.diff("repo")
	for _, want := range []string{"-one\n-more\n+not committed\n", "deleted file mode 100644", "new file mode 100755", "new file mode 120000", "--- a/a\n+++ b/a\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the diff has no %q:\n%s", want, text)
		}
	}
	c := w.look("repo")
	if !c.Unsaved() {
		t.Error("nothing would be lost")
	}
	commits, err := c.Commits(t.Context())
	check(t, err)
	if len(commits) != 1 || commits[0].Subject != "guest's commit" {
		t.Errorf("%+v", commits)
	}
	pulled, err := c.Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if len(pulled) != 1 || pulled[0].Branch != "banger/box" || pulled[0].Dir != dir {
		t.Errorf("%+v", pulled)
	}
	if got := git(t, dir, "diff", "--name-status", "main", "banger/box"); got != workedStatus {
		t.Errorf("the branch has %q", got)
	}
	if got := git(t, dir, "log", "--format=%s", "main..banger/box"); got != "Uncommitted work from the guest\nguest's commit" {
		t.Errorf("the branch has the commits %q", got)
	}
	if after := tree(t, dir); !slices.Equal(before, after) || git(t, dir, "status", "--porcelain", "--branch") != status {
		t.Error("a pull has touched the work tree")
	}
	git(t, dir, "fsck", "--strict")
	if w.look("repo").Unsaved() {
		t.Error("what was pulled counts as lost")
	}
	// More work moves the branch on; what the user does with it is not lost.
	write(t, in, map[string]string{"later": "later\n"})
	git(t, in, "add", ".")
	git(t, in, "commit", "-qm", "all")
	again := w.look("repo")
	if !again.Unsaved() {
		t.Error("nothing would be lost")
	}
	pulled, err = again.Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if pulled[0].Before == "" {
		t.Error("the branch was moved to another history, which was not said")
	}
	git(t, dir, "checkout", "-q", "banger/box")
	write(t, dir, map[string]string{"host": "x\n"})
	git(t, dir, "add", "host")
	git(t, dir, "commit", "-qm", "the user's own")
	git(t, dir, "checkout", "-q", "main")
	write(t, in, map[string]string{"later": "still later\n"})
	_, err = w.look("repo").Pull(t.Context(), w.store, "banger/box")
	says(t, err, "has commits that are not the guest's")
	_, err = w.look("repo").Pull(t.Context(), w.store, "other")
	check(t, err)
}

// TestTheSameWorkIsPulledOnce pulls what was pulled yesterday.
func TestTheSameWorkIsPulledOnce(t *testing.T) {
	t.Parallel()
	plain := t.TempDir()
	write(t, plain, map[string]string{"a": "host\n"})
	for name, dir := range map[string]string{"repository": repository(t), "plain": plain} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			in := w.put(dir, "repo", asItIs)
			write(t, in, map[string]string{"a": "guest\n"})
			first, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			yesterday := w.age(first[0])
			again, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			if again[0].Commit != yesterday || again[0].Before != "" {
				t.Errorf("%+v, and it was %s", again[0], yesterday)
			}
			write(t, in, map[string]string{"a": "guest's next\n"})
			next, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			if next[0].Commit == yesterday {
				t.Error("the guest's next work was not pulled")
			}
		})
	}
}

// TestTheGuestsCommitsAreNeverTakenForOthers pulls commits of the guest's own over
// others with the same files.
func TestTheGuestsCommitsAreNeverTakenForOthers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		before, after func(t *testing.T, in string)
		want          string // of the branch, the newest first
	}{
		"another message": {
			func(t *testing.T, in string) { git(t, in, "commit", "-qam", "one") },
			func(t *testing.T, in string) { git(t, in, "commit", "-q", "--amend", "-m", "other") },
			"other",
		},
		"committed since": {
			func(*testing.T, string) {},
			func(t *testing.T, in string) { git(t, in, "commit", "-qam", "one") },
			"one",
		},
		"merged in place of squashed": {
			func(t *testing.T, in string) {
				git(t, in, "commit", "-qam", "topic")
				git(t, in, "tag", "topic")
				git(t, in, "commit", "-q", "--amend", "-m", "squashed")
			},
			func(t *testing.T, in string) {
				git(t, in, "reset", "-q", "--hard", "HEAD^")
				git(t, in, "merge", "-q", "--no-ff", "-m", "merged", "topic")
			},
			"merged\ntopic",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, w := repository(t), newWorld(t)
			in := w.put(dir, "repo", asItIs)
			write(t, in, map[string]string{"a": "guest\n"})
			test.before(t, in)
			_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			test.after(t, in)
			_, err = w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			if got := git(t, dir, "log", "--topo-order", "--format=%s", "main..banger/box"); got != test.want {
				t.Errorf("the branch has the commits %q, not %q", got, test.want)
			}
			if w.look("repo").Unsaved() {
				t.Error("what was pulled counts as lost")
			}
		})
	}
}

// age makes a pull one of yesterday, and gives its commit.
func (w *world) age(p workspace.Pulled) string {
	w.t.Helper()
	again := func(commit string, parent ...string) string {
		args := append([]string{"env", "GIT_COMMITTER_DATE=2001-01-01T00:00:00Z",
			"git", "commit-tree", "-m", "Uncommitted work from the guest", commit + "^{tree}"}, parent...)
		return strings.TrimSpace(run(w.t, p.Dir, args...))
	}
	parent := git(w.t, p.Dir, "rev-parse", p.Commit+"^")
	if p.Nowhere {
		parent = again(parent)
	}
	aged := again(p.Commit, "-p", parent)
	git(w.t, p.Dir, "update-ref", "refs/heads/"+p.Branch, aged)
	memories, err := filepath.Glob(filepath.Join(w.store.Dir, "*", "*", "workspace.json"))
	check(w.t, err)
	for _, path := range memories {
		data, err := os.ReadFile(path)
		check(w.t, err)
		check(w.t, os.WriteFile(path, bytes.ReplaceAll(data, []byte(p.Commit), []byte(aged)), 0o600))
	}
	return aged
}

// TestWorkOnUncommittedWork has a host's work tree that was not committed: it
// goes before the guest's work as a commit of its own.
func TestWorkOnUncommittedWork(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, map[string]string{"a": "host\n", "untracked": "host\n"})
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	if w.look("repo").Any() {
		t.Error("the host's own changes are shown as the guest's")
	}
	write(t, in, map[string]string{"a": "host\nguest\n"})
	_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if got := git(t, dir, "log", "--format=%s", "main..banger/box"); got != "Uncommitted work from the guest\nThe work tree as it went into the guest" {
		t.Errorf("the commits are %q", got)
	}
	if got := git(t, dir, "diff", "--name-status", "banger/box^", "banger/box"); got != "M\ta" {
		t.Errorf("the guest changed %q", got)
	}
}

func TestWorkComesBackWithoutGit(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	worked(t, w, in)
	w.path = "/nowhere"
	_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if got := git(t, dir, "diff", "--name-status", "main", "banger/box"); got != workedStatus {
		t.Errorf("the branch has %q", got)
	}
}

func TestOtherBranchesAndTheStashComeBack(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	git(t, in, "checkout", "-qb", "feature/y")
	write(t, in, map[string]string{"y": "y\n"})
	git(t, in, "add", "y")
	git(t, in, "commit", "-qm", "y")
	git(t, in, "checkout", "-q", "main")
	write(t, in, map[string]string{"a": "stashed\n"})
	git(t, in, "stash", "-q")
	c := w.look("repo")
	if !c.Unsaved() {
		t.Fatal("work on another branch would be lost")
	}
	_, err := c.Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if got := git(t, dir, "log", "-1", "--format=%s", "banger/box+feature/y"); got != "y" {
		t.Errorf("%q", got)
	}
	if got := git(t, dir, "show", "banger/box+stash:a"); got != "stashed" {
		t.Errorf("%q", got)
	}
	if w.look("repo").Unsaved() {
		t.Error("what was pulled counts as lost")
	}
}

// TestFormsComeBack does the same work in repositories of many forms.
func TestFormsComeBack(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"linked work tree", "submodule alone", "alternates", "shallow", "partial", "empty", "unborn", "detached", "sha256", "sparse", "strange names", "line ends"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := forms[name](t)
			w := newWorld(t)
			in := w.put(dir, "repo", asItIs)
			if text := w.diff("repo"); text != "" {
				t.Errorf("nothing was done, and the diff is\n%s", text)
			}
			write(t, in, map[string]string{"w1": "1\n"})
			git(t, in, "add", "w1")
			git(t, in, "commit", "-qm", "guest", "w1")
			write(t, in, map[string]string{"w2": "2\n"})
			status := git(t, dir, "status", "--porcelain", "--branch")
			_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			for name, want := range map[string]string{"w1": "1", "w2": "2"} {
				if got := git(t, dir, "show", "banger/box:"+name); got != want {
					t.Errorf("%s is %q", name, got)
				}
			}
			if got := git(t, dir, "status", "--porcelain", "--branch"); got != status {
				t.Errorf("the host's status was %q and is %q", status, got)
			}
			if c := w.look("repo"); c.Unsaved() {
				t.Error("what was pulled counts as lost")
			}
		})
	}
}

func TestWorkInSubmodulesComesBack(t *testing.T) {
	t.Parallel()
	dir := forms["submodules"](t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	write(t, in, map[string]string{"lib/sub/new": "guest\n", "lib/sub/deep/a": "guest\n", "top": "guest\n"})
	git(t, filepath.Join(in, "lib/sub/deep"), "commit", "-qam", "deep work")
	for _, want := range []string{"+++ b/lib/sub/new", "+++ b/lib/sub/deep/a", "+++ b/top"} {
		if text := w.diff("repo"); !strings.Contains(text, want) {
			t.Errorf("the diff has no %q:\n%s", want, text)
		}
	}
	pulled, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if len(pulled) != 3 {
		t.Errorf("%+v", pulled)
	}
	deep := filepath.Join(dir, "lib/sub/deep")
	if got := git(t, deep, "log", "-1", "--format=%s", "banger/box"); got != "deep work" {
		t.Errorf("%q", got)
	}
	if got, want := git(t, dir, "-C", "lib/sub", "rev-parse", "banger/box:deep"), git(t, deep, "rev-parse", "banger/box"); got != want {
		t.Errorf("the submodule is at %s, want %s", got, want)
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	write(t, dir, map[string]string{"untracked": "host\n"})
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	write(t, in, map[string]string{"a": "one\nmore\nguest\n", "n": "new\n", "untracked": "host\nguest\n"})
	write(t, dir, map[string]string{"dir/b": "the host worked on\n"})
	check(t, w.look("repo").Apply(t.Context()))
	if got := git(t, dir, "status", "--porcelain", "--branch"); got != "## main\n M a\n M dir/b\n?? n\n?? untracked" {
		t.Errorf("%q", got)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "untracked")); string(data) != "host\nguest\n" {
		t.Errorf("%q", data)
	}
	write(t, dir, map[string]string{"a": "in the way\n", "n": "in the way\n"})
	before := tree(t, dir)
	if err := w.look("repo").Apply(t.Context()); !errors.Is(err, workspace.ErrConflicts) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(before, tree(t, dir)) {
		t.Error("what does not fit has changed something")
	}
}

// TestMerge merges into files that are committed, changed, untracked and new,
// with what the host has done to them meanwhile.
func TestMerge(t *testing.T) {
	t.Parallel()
	begin := "1\n2\n3\n4\n5\n6\n7\n8\n9\n"
	dir := repository(t)
	write(t, dir, map[string]string{"a": begin, "sub/untracked": begin, "both": begin})
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	theirs := strings.Replace(begin, "9", "guest", 1)
	write(t, in, map[string]string{"a": theirs, "sub/untracked": theirs, "both": theirs, "new": "guest\n", "only": "guest\n"})
	ours := strings.Replace(begin, "1", "host", 1)
	clash := strings.Replace(begin, "9", "host", 1)
	write(t, dir, map[string]string{"a": ours, "sub/untracked": ours, "both": clash, "new": "host\n"})
	err := w.look("repo").Merge(t.Context())
	var marked *workspace.Marked
	if !errors.As(err, &marked) || !slices.Equal(marked.Files, []string{"both", "new"}) {
		t.Fatalf("%v", err)
	}
	merged := strings.Replace(ours, "9", "guest", 1)
	for name, want := range map[string]string{"a": merged, "sub/untracked": merged, "only": "guest\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("%s is %q, %v", name, data, err)
		}
	}
	for _, name := range marked.Files {
		data, err := os.ReadFile(filepath.Join(dir, name))
		for _, want := range []string{"<<<<<<<", "host\n", "=======", "guest\n", ">>>>>>>"} {
			if !strings.Contains(string(data), want) {
				t.Errorf("%s is %q, %v", name, data, err)
			}
		}
	}
	if got := git(t, dir, "status", "--porcelain"); got != " M a\n?? both\n?? new\n?? only\n?? sub/" {
		t.Errorf("%q", got)
	}
	// What marks can't show changes nothing.
	check(t, os.Remove(filepath.Join(dir, "both")))
	before := tree(t, dir)
	if err := w.look("repo").Merge(t.Context()); !errors.Is(err, workspace.ErrConflicts) {
		t.Errorf("%v", err)
	}
	if !slices.Equal(before, tree(t, dir)) {
		t.Error("what can't be merged has changed something")
	}
}

// TestApplyToAPlainDirectory has no commit of before to merge with.
func TestApplyToAPlainDirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1\n", "b": "1\n"})
	w := newWorld(t)
	in := w.put(dir, "plain", asItIs)
	write(t, in, map[string]string{"a": "guest\n", "new": "guest\n"})
	write(t, dir, map[string]string{"b": "host\n"})
	check(t, w.look("plain").Merge(t.Context()))
	for name, want := range map[string]string{"a": "guest\n", "b": "host\n", "new": "guest\n"} {
		if data, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(data) != want {
			t.Errorf("%s is %q, %v", name, data, err)
		}
	}
	write(t, in, map[string]string{"b": "guest\n"})
	for name, apply := range map[string]func(*workspace.Changes) error{
		"apply": func(c *workspace.Changes) error { return c.Apply(t.Context()) },
		"merge": func(c *workspace.Changes) error { return c.Merge(t.Context()) },
	} {
		if err := apply(w.look("plain")); !errors.Is(err, workspace.ErrConflicts) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(dir, "b")); string(data) != "host\n" {
		t.Errorf("b is %q", data)
	}
}

func TestWhatRunsByItselfIsNamed(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	want := []string{".envrc", ".github/workflows/ci.yml", ".husky/pre-commit", ".vscode/tasks.json", "sub/.gitattributes"}
	for _, name := range append([]string{"src/main.c", "github/workflows.txt"}, want...) {
		write(t, in, map[string]string{name: "x\n"})
	}
	found, err := w.look("repo").Risks(t.Context())
	check(t, err)
	var names []string
	for _, r := range found {
		names = append(names, r.Path)
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
}

// liar is an agent that answers as it is told: first the scan, then what each
// further ask is answered with.
func liar(t *testing.T, scanned func(*wire.Conn), deeds map[wire.Deed]func(*wire.Conn, []string)) func(net.Conn) {
	return func(stream net.Conn) {
		conn := wire.NewConn(stream)
		for {
			var ask wire.Ask
			if conn.ReadJSON(&ask) != nil {
				return
			}
			if ask.Deed == wire.Scan {
				for {
					if _, err := conn.ReadEntry(); err != nil {
						break
					}
				}
				conn.JSON(wire.Answer{})
				scanned(conn)
				conn.Flush()
				continue
			}
			names, err := conn.ReadNames()
			if err != nil {
				return
			}
			if deed := deeds[ask.Deed]; deed != nil {
				deed(conn, names)
				conn.Flush()
				continue
			}
			conn.JSON(wire.Answer{Git: &wire.Heads{}})
			conn.Chunks(strings.NewReader(""))
		}
	}
}

// entry writes an entry as no honest end would.
func entry(conn *wire.Conn, path string, size uint64) {
	buf := []byte{'f', 0, 0, 1, 0o244, 0, 0, 0, 0, 0, 0, 0, 1}
	buf = binary.BigEndian.AppendUint64(buf, size)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(path)))
	conn.Write(append(append(buf, path...), 0))
}

func TestAGuestThatLies(t *testing.T) {
	t.Parallel()
	one := func(path string, size uint64) func(*wire.Conn) {
		return func(conn *wire.Conn) { entry(conn, path, size); conn.End() }
	}
	link := func(conn *wire.Conn) {
		conn.Entry(wire.Entry{Path: "d", Stat: wire.Stat{Type: wire.Link, Target: "/tmp"}})
		conn.Entry(wire.Entry{Path: "d/x", Stat: wire.Stat{Type: wire.File, Mode: 0o644, Size: 1}})
		conn.End()
	}
	give := func(path string, size uint64, data string) func(*wire.Conn, []string) {
		return func(conn *wire.Conn, _ []string) {
			conn.JSON(wire.Answer{})
			entry(conn, path, size)
			conn.Write([]byte(data))
		}
	}
	heads := func(h wire.Heads, pack string) func(*wire.Conn, []string) {
		return func(conn *wire.Conn, _ []string) {
			conn.JSON(wire.Answer{Git: &h})
			conn.Chunks(strings.NewReader(pack))
		}
	}
	oid := strings.Repeat("1", 40)
	for name, lie := range map[string]struct {
		scan  func(*wire.Conn)
		deeds map[wire.Deed]func(*wire.Conn, []string)
	}{
		"a path upwards":         {scan: one("../../evil", 1)},
		"an absolute path":       {scan: one("/evil", 1)},
		"a path into .git":       {scan: one("sub/.GIT/hooks/x", 1)},
		"a path with a zero":     {scan: one("a\x00b", 1)},
		"a negative size":        {scan: one("evil", 1<<63)},
		"an endless file":        {scan: one("evil", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("evil", 1<<50, "x")}},
		"a file that ends early": {scan: one("evil", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: func(conn *wire.Conn, _ []string) { conn.JSON(wire.Answer{}); entry(conn, "evil", 10) }}},
		"another file":           {scan: one("evil", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("a", 1, "x")}},
		"a head that is none":    {scan: one("a", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("a", 1, "x"), wire.Git: heads(wire.Heads{HasGit: true, Head: "--upload-pack=x"}, "")}},
		"a branch upwards":       {scan: one("a", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("a", 1, "x"), wire.Git: heads(wire.Heads{HasGit: true, Refs: []wire.Ref{{Name: "refs/heads/../../x", OID: oid}}}, "")}},
		"a commit that is not":   {scan: one("a", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("a", 1, "x"), wire.Git: heads(wire.Heads{HasGit: true, Head: oid}, "")}},
		"a pack that is none":    {scan: one("a", 1), deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: give("a", 1, "x"), wire.Git: heads(wire.Heads{HasGit: true, Head: oid}, "PACKxxxx")}},
		"a list without an end":  {scan: func(conn *wire.Conn) { entry(conn, "x", 1) }},
		"a link in the way":      {scan: link, deeds: map[wire.Deed]func(*wire.Conn, []string){wire.Get: func(conn *wire.Conn, _ []string) { conn.JSON(wire.Answer{}); link(conn) }}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := repository(t)
			w := newWorld(t)
			w.put(dir, "repo", asItIs)
			before := tree(t, filepath.Dir(dir))
			serve := liar(t, lie.scan, lie.deeds)
			w.serve = func(conn net.Conn) {
				// What is not asked for must not be waited for.
				go func() { <-t.Context().Done(); conn.Close() }()
				serve(conn)
			}
			ended := make(chan error, 1)
			go func() {
				c, err := w.store.Look(t.Context(), "0badcafe", w.at("repo"), func(ctx contextContext) (closer, error) {
					stream, err := w.dial(ctx)
					if strings.Contains(name, "end") && err == nil {
						go func() { stream.(net.Conn).SetReadDeadline(soon()) }()
					}
					return stream, err
				})
				if err == nil {
					_, err = c.Pull(t.Context(), w.store, "banger/box")
					c.Close()
				}
				ended <- err
			}()
			err := <-ended
			if err == nil && name != "a link in the way" {
				t.Error("it was believed")
			}
			if after := tree(t, filepath.Dir(dir)); !slices.Equal(before, after) {
				t.Errorf("the host has %q", after)
			}
			git(t, dir, "fsck", "--strict")
		})
	}
}

// TestHostileObjects has commits that git's own checks refuse.
func TestHostileObjects(t *testing.T) {
	t.Parallel()
	dir := repository(t)
	w := newWorld(t)
	in := w.put(dir, "repo", asItIs)
	blob := git(t, in, "rev-parse", "HEAD:a")
	check(t, os.WriteFile(filepath.Join(in, "evil"), append([]byte("100644 .git\x00"), hexBytes(blob)...), 0o644))
	bad := git(t, in, "hash-object", "-t", "tree", "--literally", "-w", "evil")
	check(t, os.Remove(filepath.Join(in, "evil")))
	commit := git(t, in, "commit-tree", bad, "-p", "HEAD", "-m", "evil")
	git(t, in, "update-ref", "refs/heads/main", commit)
	_, err := w.store.Look(t.Context(), "0badcafe", in, w.dial)
	says(t, err, "hasDotgit")
	if out, _ := try(dir, "git", "branch"); out != "* main\n" {
		t.Errorf("the host has %q", out)
	}
}
