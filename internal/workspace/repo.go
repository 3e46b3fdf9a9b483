package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// gitlink is the mode of a submodule in git's index.
const gitlink = "160000"

// repo is one repository whose work tree goes in, as it stands.
type repo struct {
	prefix string // where in the workspace; "" is its top
	dir    string // of the work tree
	git    git

	gitDir  string // of this work tree
	common  string // what all work trees share
	index   string // a file; "" where there is none yet
	format  string // of object names: sha1 or sha256
	head    string // a commit; "" is an unborn branch
	branch  string // refs/heads/…; "" is a detached HEAD
	refs    []wire.Ref
	symrefs []wire.Ref // OID is the ref that it means
	config  []setting

	files []string // that go in, relative to dir
	gone  []string // in the index and not in the work tree
	links []string // submodules

	sum string // of what the index says
}

// tracked is a line of git's index.
type tracked struct {
	mode, oid, path string
	skipped         bool // left out of the work tree by a sparse checkout
}

// openRepo looks at the repository of a work tree, whatever form it has.
func openRepo(ctx context.Context, dir, prefix string) (*repo, error) {
	r := &repo{prefix: prefix, dir: dir, git: git{dir: dir}}
	out, err := r.git.line(ctx, "rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", "--show-object-format", "--git-path", "index", "--show-toplevel")
	if err != nil {
		return nil, bad(hintFor(err), "cannot read the repository %s: %v", dir, err)
	}
	lines := strings.Split(out, "\n")
	if len(lines) != 5 {
		return nil, bad("", "cannot read the repository %s: its path has a line end in it", dir)
	}
	r.gitDir, r.common, r.format, r.index = lines[0], lines[1], lines[2], lines[3]
	if lines[4] != dir {
		return nil, bad("", "%s is no work tree of its own: git says it belongs to %s", dir, lines[4])
	}
	if _, err := os.Stat(r.index); err != nil {
		r.index = ""
	}
	if err := r.checkIdle(); err != nil {
		return nil, err
	}
	var all errgroup.Group
	all.Go(func() error { return r.readHead(ctx) })
	all.Go(func() error { return r.readRefs(ctx) })
	all.Go(func() error {
		r.config, err = readConfig(ctx, r.git)
		return err
	})
	if err := all.Wait(); err != nil {
		return nil, fmt.Errorf("cannot read the repository %s: %w", dir, err)
	}
	return r, nil
}

func hintFor(err error) string {
	if strings.Contains(err.Error(), "dubious ownership") {
		return "it belongs to another user; git's safe.directory says that it is to be trusted all the same"
	}
	return ""
}

// unfinished are the files of what git has begun and not ended.
var unfinished = []struct{ file, what, end string }{
	{"MERGE_HEAD", "merge", "`git merge --continue` or `git merge --abort`"},
	{"rebase-merge", "rebase", "`git rebase --continue` or `git rebase --abort`"},
	{"rebase-apply", "rebase or am", "`git rebase --abort` or `git am --abort`"},
	{"CHERRY_PICK_HEAD", "cherry-pick", "`git cherry-pick --continue` or `git cherry-pick --abort`"},
	{"REVERT_HEAD", "revert", "`git revert --continue` or `git revert --abort`"},
}

func (r *repo) checkIdle() error {
	for _, u := range unfinished {
		if _, err := os.Lstat(filepath.Join(r.gitDir, u.file)); err == nil {
			return bad("finish it first, with "+u.end, "%s is in the middle of a %s", r.dir, u.what)
		}
	}
	return nil
}

func (r *repo) readHead(ctx context.Context) error {
	// Both fail where there is nothing to tell.
	r.head, _ = r.git.line(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	r.branch, _ = r.git.line(ctx, "symbolic-ref", "--quiet", "HEAD")
	if r.head == "" && r.branch == "" {
		return fmt.Errorf("its HEAD is neither a branch nor a commit")
	}
	return nil
}

// readRefs reads what all work trees share and a clone would have: no stash, no
// bisect, nothing of other tools.
func (r *repo) readRefs(ctx context.Context) error {
	out, err := r.git.run(ctx, "for-each-ref", "--format=%(objectname)%00%(refname)%00%(symref)", "refs/heads", "refs/tags", "refs/remotes", "refs/notes")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(out)) {
		parts := strings.Split(strings.TrimSuffix(line, "\n"), "\x00")
		if len(parts) != 3 {
			return fmt.Errorf("git told of a ref in an unknown form: %q", line)
		}
		if parts[2] != "" {
			r.symrefs = append(r.symrefs, wire.Ref{Name: parts[1], OID: parts[2]})
			continue
		}
		r.refs = append(r.refs, wire.Ref{Name: parts[1], OID: parts[0]})
	}
	return nil
}

// list gives the tracked names, and those that are neither tracked nor
// ignored. A repository among those ends in a slash.
func (r *repo) list(ctx context.Context) ([]tracked, []string, error) {
	var all errgroup.Group
	var index, others []byte
	all.Go(func() (err error) {
		index, err = r.git.run(ctx, "ls-files", "-z", "--stage", "-t")
		return err
	})
	all.Go(func() (err error) {
		others, err = r.git.run(ctx, "ls-files", "-z", "--others", "--exclude-standard")
		return err
	})
	if err := all.Wait(); err != nil {
		return nil, nil, fmt.Errorf("cannot list the files of %s: %w", r.dir, err)
	}
	lines := fields(index)
	list := make([]tracked, 0, len(lines))
	for _, line := range lines {
		head, path, ok := strings.Cut(line, "\t")
		part := strings.Fields(head)
		if !ok || len(part) != 4 {
			return nil, nil, fmt.Errorf("git told of a file in an unknown form: %q", line)
		}
		if part[3] != "0" {
			return nil, nil, bad("resolve them first: `git status` lists them", "%s has conflicts, %s for one", r.dir, path)
		}
		list = append(list, tracked{skipped: part[0] == "S", mode: part[1], oid: part[2], path: path})
	}
	sum := sha256.Sum256(index)
	r.sum = hex.EncodeToString(sum[:])
	return list, fields(others), nil
}

// start makes of the repository what --branch and --from say.
func (s *Source) start(ctx context.Context, r *repo) error {
	if s.options.From != "" {
		if err := s.checkOut(ctx, r); err != nil {
			return err
		}
	}
	if s.options.Branch == "" {
		return nil
	}
	name, err := r.git.line(ctx, "check-ref-format", "--branch", s.options.Branch)
	if err != nil || name != s.options.Branch {
		return bad("", "%q is no name for a branch", s.options.Branch)
	}
	ref := "refs/heads/" + name
	for _, have := range r.refs {
		if have.Name == ref {
			return bad("--from "+name+" begins from it", "there is a branch %s already", name)
		}
		if strings.HasPrefix(have.Name, ref+"/") || strings.HasPrefix(ref, have.Name+"/") {
			return bad("take another name", "a branch %s can't be beside the branch %s", name, strings.TrimPrefix(have.Name, "refs/heads/"))
		}
	}
	r.branch = ref
	if r.head != "" {
		r.refs = append(r.refs, wire.Ref{Name: ref, OID: r.head})
	}
	return nil
}

// checkOut makes the files of a commit, as git checks them out here, in a
// directory of its own. The work tree and its index are not touched.
func (s *Source) checkOut(ctx context.Context, r *repo) error {
	commit, err := r.git.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", s.options.From+"^{commit}")
	if err != nil {
		return bad("`git log` shows the commits there are", "there is no commit %q in %s", s.options.From, r.dir)
	}
	dir, err := os.MkdirTemp("", "banger-from")
	if err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	s.checkout, s.root = dir, filepath.Join(dir, "tree")
	if err := os.Mkdir(s.root, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	r.index, r.dir = filepath.Join(dir, "index"), s.root
	r.git = git{dir: s.root}.with("GIT_DIR="+r.gitDir, "GIT_WORK_TREE="+s.root, "GIT_INDEX_FILE="+r.index)
	if _, err := r.git.run(ctx, "read-tree", "--reset", "-u", commit); err != nil {
		return fmt.Errorf("cannot check %s out: %w", s.options.From, err)
	}
	r.head, r.branch = commit, ""
	for _, ref := range r.refs {
		if ref.Name == "refs/heads/"+s.options.From && ref.OID == commit {
			r.branch = ref.Name
		}
	}
	return nil
}
