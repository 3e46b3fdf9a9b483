package workspace_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/workspace"
)

var asItIs = workspace.Options{}

// forms are the forms in which a repository may lie on a disk. Each gives the
// work tree that goes in.
var forms = map[string]func(*testing.T) string{
	"plain": func(t *testing.T) string { return repository(t) },
	"uncommitted": func(t *testing.T) string {
		dir := repository(t)
		write(t, dir, map[string]string{"a": "changed\n", "new": "untracked\n", "x.o": "ignored", "build/y": "ignored", "staged": "in the index\n"})
		git(t, dir, "add", "staged")
		write(t, dir, map[string]string{"staged": "and changed again\n"})
		check(t, os.Remove(filepath.Join(dir, "dir/b")))
		write(t, dir, map[string]string{"run.sh": "#!/bin/sh\n"})
		check(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o755))
		check(t, os.Symlink("/etc/passwd", filepath.Join(dir, "outside")))
		check(t, os.Symlink("a", filepath.Join(dir, "inside")))
		git(t, dir, "add", "-N", "new")
		return dir
	},
	"linked work tree": func(t *testing.T) string {
		dir := repository(t)
		linked := filepath.Join(t.TempDir(), "linked")
		git(t, dir, "worktree", "add", "-q", "-b", "side", linked)
		write(t, linked, map[string]string{"a": "side\n", "side": "new\n"})
		git(t, linked, "add", "side")
		write(t, dir, map[string]string{"a": "stashed\n"})
		git(t, dir, "stash")
		return linked
	},
	"submodules": func(t *testing.T) string {
		dir, sub, deep := repository(t), repository(t), repository(t)
		git(t, sub, "submodule", "add", "-q", deep, "deep")
		git(t, sub, "commit", "-qm", "deep")
		git(t, dir, "submodule", "add", "-q", sub, "lib/sub")
		git(t, dir, "submodule", "update", "-q", "--init", "--recursive")
		git(t, dir, "commit", "-qm", "sub")
		write(t, dir, map[string]string{"lib/sub/a": "changed in the submodule\n", "lib/sub/new": "new\n"})
		return dir
	},
	"submodule alone": func(t *testing.T) string {
		dir, sub := repository(t), repository(t)
		git(t, dir, "submodule", "add", "-q", sub, "sub")
		write(t, dir, map[string]string{"sub/a": "changed\n"})
		return filepath.Join(dir, "sub")
	},
	"submodule that is not there": func(t *testing.T) string {
		dir, sub := repository(t), repository(t)
		git(t, dir, "submodule", "add", "-q", sub, "sub")
		git(t, dir, "commit", "-qm", "sub")
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", dir, clone)
		return clone
	},
	"alternates": func(t *testing.T) string {
		dir := repository(t)
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", "--shared", dir, clone)
		return clone
	},
	"shallow": func(t *testing.T) string {
		dir := repository(t)
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", "--depth=1", "file://"+dir, clone)
		return clone
	},
	"partial": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "config", "uploadpack.allowFilter", "true")
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", "--filter=blob:none", "file://"+dir, clone)
		check(t, os.Rename(dir, dir+".gone")) // nothing can be fetched later
		write(t, clone, map[string]string{"a": "changed\n"})
		return clone
	},
	"unborn": func(t *testing.T) string {
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		write(t, dir, map[string]string{"a": "staged\n", "b": "untracked\n"})
		git(t, dir, "add", "a")
		return dir
	},
	"empty": func(t *testing.T) string {
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		return dir
	},
	"detached": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "checkout", "-q", "HEAD^")
		write(t, dir, map[string]string{"a": "x\n"})
		return dir
	},
	"upstream and tags": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "tag", "-a", "-m", "v1", "v1")
		git(t, dir, "branch", "feature/x")
		clone := filepath.Join(t.TempDir(), "clone")
		git(t, dir, "clone", "-q", dir, clone)
		write(t, clone, map[string]string{"c": "c\n"})
		git(t, clone, "add", "c")
		git(t, clone, "commit", "-qm", "ahead")
		git(t, clone, "pack-refs", "--all")
		return clone
	},
	"sha256": func(t *testing.T) string {
		dir := t.TempDir()
		git(t, dir, "init", "-q", "--object-format=sha256")
		write(t, dir, map[string]string{"a": "a\n"})
		git(t, dir, "add", "a")
		git(t, dir, "commit", "-qm", "first")
		write(t, dir, map[string]string{"a": "b\n"})
		return dir
	},
	"split index": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "update-index", "--split-index")
		write(t, dir, map[string]string{"n": "n\n"})
		git(t, dir, "add", "n")
		return dir
	},
	"index of version 4": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "update-index", "--index-version", "4")
		return dir
	},
	"sparse": func(t *testing.T) string {
		dir := repository(t)
		write(t, dir, map[string]string{"other/c": "c\n"})
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-qm", "other")
		git(t, dir, "sparse-checkout", "set", "dir")
		return dir
	},
	"strange names": func(t *testing.T) string {
		dir := repository(t)
		write(t, dir, map[string]string{"line\nend": "1\n", "\xff\xfe": "2\n", "Case": "3\n", "case": "4\n", " ": "5\n", "-x": "6\n", "\"q\"": "7\n", "tab\there": "8\n", "*": "9\n"})
		git(t, dir, "add", "line\nend", "\xff\xfe", "Case")
		git(t, dir, "commit", "-qm", "names")
		return dir
	},
	"line ends": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "config", "core.autocrlf", "true")
		write(t, dir, map[string]string{"crlf": "x\r\ny\r\n"})
		git(t, dir, "add", "crlf")
		git(t, dir, "commit", "-qm", "crlf")
		return dir
	},
	"a filter, in the same second": func(t *testing.T) string {
		dir := repository(t)
		git(t, dir, "config", "filter.upper.clean", "tr a-z A-Z")
		write(t, dir, map[string]string{".gitattributes": "*.up filter=upper\n", "x.up": "text\n"})
		git(t, dir, "add", ".")
		git(t, dir, "commit", "-qm", "filtered")
		then := time.Now().Add(-time.Hour)
		check(t, os.Chtimes(filepath.Join(dir, "x.up"), then, then))
		git(t, dir, "update-index", "--refresh")
		check(t, os.Chtimes(filepath.Join(dir, ".git/index"), then, then))
		return dir
	},
	"a directory that became a link": func(t *testing.T) string {
		dir, outside := repository(t), t.TempDir()
		write(t, outside, map[string]string{"b": "secret\n"})
		check(t, os.RemoveAll(filepath.Join(dir, "dir")))
		check(t, os.Symlink(outside, filepath.Join(dir, "dir")))
		return dir
	},
}

func TestFormsGoInAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, make := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := make(t)
			before := tree(t, dir)
			in := newWorld(t).put(dir, "repo", asItIs)
			want := slices.DeleteFunc(slices.Clone(before), func(line string) bool {
				return strings.HasPrefix(line, "/x.o ") || strings.HasPrefix(line, "/build/")
			})
			if got := tree(t, in); !slices.Equal(got, want) {
				t.Errorf("the guest has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			sameHistory(t, dir, in)
			if after := tree(t, dir); !slices.Equal(before, after) {
				t.Error("the host's work tree is not what it was")
			}
			for _, file := range []string{"objects/info/alternates", "hooks", "worktrees", "modules", "refs/stash"} {
				if _, err := os.Lstat(filepath.Join(in, ".git", file)); err == nil {
					t.Errorf("the guest has .git/%s", file)
				}
			}
			if info, err := os.Lstat(filepath.Join(in, ".git")); err != nil || !info.IsDir() {
				t.Errorf(".git is no directory: %v", err)
			}
			// It is whole without the host.
			check(t, os.Rename(dir, dir+".away"))
			write(t, in, map[string]string{"made-in-guest": "1\n"})
			git(t, in, "add", "made-in-guest")
			git(t, in, "commit", "-qm", "in the guest")
			if who := git(t, in, "log", "-1", "--format=%an <%ae>"); who != "Ada <ada@example.org>" {
				t.Errorf("the commit is by %s", who)
			}
			git(t, in, "gc", "-q")
			check(t, os.Rename(dir+".away", dir))
		})
	}
}
