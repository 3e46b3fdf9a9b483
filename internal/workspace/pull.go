package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// Diff writes what changed in the guest since it went in, committed or not, as
// git's diff of the files. Options are git's own.
func (c *Changes) Diff(ctx context.Context, w io.Writer, options ...string) error {
	for _, r := range c.repos {
		args := append([]string{"diff", "--no-ext-diff", "--no-textconv", "--src-prefix=a/" + below(r.kept.Prefix), "--dst-prefix=b/" + below(r.kept.Prefix)}, options...)
		if err := r.own.git.pipe(ctx, nil, w, append(args, r.base, r.tree)...); err != nil {
			return err
		}
	}
	return nil
}

// below is the beginning of the paths in a repository.
func below(prefix string) string {
	if prefix == "" {
		return ""
	}
	return prefix + "/"
}

// File is one changed file. Status is git's letter: A, M, D or T.
type File struct {
	Path   string `json:"path"` // in the workspace
	Status string `json:"status"`
}

// Commit is one that was made in the guest.
type Commit struct {
	Repository string `json:"repository,omitempty"` // within the workspace; "" is its top
	ID         string `json:"id"`
	Subject    string `json:"subject"`
}

// Files lists what changed.
func (c *Changes) Files(ctx context.Context) ([]File, error) {
	var files []File
	for _, r := range c.repos {
		out, err := r.own.git.run(ctx, "diff-tree", "-r", "-z", "--no-renames", "--name-status", r.base, r.tree)
		if err != nil {
			return nil, err
		}
		for pair := range slices.Chunk(fields(out), 2) {
			if len(pair) == 2 {
				files = append(files, File{Path: join(r.kept.Prefix, pair[1]), Status: pair[0]})
			}
		}
	}
	return files, nil
}

// Risks are the changed files that something runs without being asked to.
func (c *Changes) Risks(ctx context.Context) ([]Risk, error) {
	files, err := c.Files(ctx)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(files))
	for i, f := range files {
		names[i] = f.Path
	}
	return risks(names), nil
}

// maxCommits bounds how many commits are told of one by one.
const maxCommits = 1000

// Commits lists those that were made in the guest, the newest first.
func (c *Changes) Commits(ctx context.Context) ([]Commit, error) {
	var commits []Commit
	for _, r := range c.repos {
		if !r.moved() {
			continue
		}
		args := []string{"log", "-z", fmt.Sprintf("--max-count=%d", maxCommits), "--format=%H %s", r.heads.Head, "--not", r.kept.Base}
		out, err := r.own.git.run(ctx, args...)
		if err != nil {
			return nil, err
		}
		for _, line := range fields(out) {
			id, subject, _ := strings.Cut(line, " ")
			commits = append(commits, Commit{Repository: r.kept.Prefix, ID: id, Subject: subject})
		}
	}
	return commits, nil
}

// Pulled is what a pull brought into one repository of the host.
type Pulled struct {
	Dir     string `json:"dir"` // the repository
	Branch  string `json:"branch"`
	Commit  string `json:"commit"`
	Before  string `json:"before,omitempty"` // the commit that the branch named, when it is not in its history now
	Nowhere bool   `json:"bare,omitempty"`   // Dir is a repository that banger made for it

}

// Pull brings the guest's work into the host's repositories, as commits on the
// branch; further branches of the guest come as branch+name. Neither a work
// tree nor a branch that is checked out is touched. Where nothing is new,
// nothing is made.
func (c *Changes) Pull(ctx context.Context, store Store, branch string) ([]Pulled, error) {
	for _, r := range c.repos {
		if err := r.mayPull(ctx, branch); err != nil {
			return nil, err
		}
	}
	if err := c.intend(branch); err != nil {
		return nil, err
	}
	store.step("pull.fetch")
	var all []Pulled
	for _, r := range c.repos {
		pulled, err := c.pull(ctx, store, r, branch)
		if err != nil {
			return all, err
		}
		all = append(all, pulled...)
	}
	store.step("pull.remember")
	return all, c.remember()
}

func (r *change) host() git { return git{dir: r.kept.Dir} }

// mayPull refuses to move a branch that somebody else has moved.
func (r *change) mayPull(ctx context.Context, branch string) error {
	g := r.host()
	if r.kept.Common == "" {
		return nil
	}
	if name, err := g.line(ctx, "check-ref-format", "--branch", branch); err != nil || name != branch {
		return bad("", "%q is no name for a branch", branch)
	}
	have, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+branch)
	if err != nil || r.kept.isPulled(branch, have) {
		return nil
	}
	if _, err := r.own.git.run(ctx, "merge-base", "--is-ancestor", have, r.tip); err == nil {
		return nil
	}
	return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("the branch %s of %s has commits that are not the guest's", branch, r.kept.Dir),
		Hint: "give another name with --branch, or rename that branch: git branch -m " + branch + " <new name>"}
}

// intend notes which commits come onto which branches: one that is killed before
// it could remember them finds its own again.
func (c *Changes) intend(branch string) error {
	if len(c.repos) == 0 {
		return nil
	}
	for _, r := range c.repos {
		r.kept.Pulling = map[string]string{}
		for _, ref := range r.branches(branch) {
			r.kept.Pulling[ref.Name] = ref.OID
		}
	}
	return c.memory.saveHead()
}

// branches are the host's that the guest's commits go to.
func (r *change) branches(branch string) []wire.Ref {
	refs := []wire.Ref{{Name: branch, OID: r.tip}}
	for _, ref := range r.extra {
		refs = append(refs, wire.Ref{Name: branch + "+" + strings.TrimPrefix(strings.TrimPrefix(ref.Name, "refs/"), "heads/"), OID: ref.OID})
	}
	return refs
}

func (c *Changes) pull(ctx context.Context, store Store, r *change, branch string) ([]Pulled, error) {
	if r.kept.Common == "" {
		return c.pullPlain(ctx, store, r, branch)
	}
	var all []Pulled
	for _, ref := range r.branches(branch) {
		p, err := r.fetch(ctx, r.host(), ref)
		if err != nil {
			return all, fmt.Errorf("cannot bring the work into %s: %w", r.kept.Dir, err)
		}
		all = append(all, p)
	}
	return all, nil
}

// out is where a commit is offered to the host's git.
const out = "refs/banger/out"

// fetch lets the host's git fetch a commit, with all the checks that it has.
func (r *change) fetch(ctx context.Context, g git, ref wire.Ref) (Pulled, error) {
	p := Pulled{Dir: g.dir, Branch: ref.Name, Commit: ref.OID}
	before, err := g.line(ctx, "rev-parse", "--verify", "--quiet", "refs/heads/"+ref.Name)
	if err == nil && r.isSame(ctx, g, before, ref.OID) {
		p.Commit = before
		r.remember(p)
		return p, nil
	}
	if err == nil {
		if _, err := r.own.git.run(ctx, "merge-base", "--is-ancestor", before, ref.OID); err != nil {
			p.Before = before
		}
	}
	if _, err := r.own.git.run(ctx, "update-ref", out, ref.OID); err != nil {
		return p, err
	}
	err = g.pipe(ctx, nil, io.Discard, "-c", "protocol.allow=never", "-c", "protocol.file.allow=always", "-c", "fetch.fsckObjects=true",
		"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance", "--no-prune", "--no-show-forced-updates",
		r.own.dir, "+"+out+":refs/heads/"+ref.Name)
	if err != nil {
		return p, err
	}
	r.remember(p)
	return p, nil
}

func (r *change) remember(p Pulled) {
	if r.kept.Pulled == nil {
		r.kept.Pulled = map[string]string{}
	}
	r.kept.Pulled[p.Branch] = p.Commit
}

// isSame says whether a commit of the host holds the work that banger has made
// another of just now: nothing but the time of day tells them apart. A commit that
// the guest made says more than its files, and is none but itself.
func (r *change) isSame(ctx context.Context, g git, before, now string) bool {
	if now != r.tip || now == r.parent() {
		return false
	}
	was, err := r.work(ctx, g, before)
	if err != nil {
		return false
	}
	is, err := r.work(ctx, r.own.git, now)
	return err == nil && was == is
}

// work names the files of a commit and what they were before. For a plain
// directory that is a commit of the same moment, and its files count.
func (r *change) work(ctx context.Context, g git, commit string) (string, error) {
	before := commit + "^@"
	if r.kept.Common == "" {
		before = commit + "^^{tree}"
	}
	return g.line(ctx, "rev-parse", commit+"^{tree}", before)
}

// pullPlain keeps the work on a plain directory in a repository made for it.
func (c *Changes) pullPlain(ctx context.Context, store Store, r *change, branch string) ([]Pulled, error) {
	dir := filepath.Join(store.Dir, savedDir, filepath.Base(r.kept.Dir)+".git")
	g := git{dir: dir}
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make a directory: %w", err)
		}
		if _, err := (git{dir: filepath.Dir(dir)}).run(ctx, "init", "--quiet", "--bare", "--template=", dir); err != nil {
			return nil, err
		}
	}
	p, err := r.fetch(ctx, g, wire.Ref{Name: branch, OID: r.tip})
	p.Nowhere = true
	return []Pulled{p}, err
}

// remember notes what the host has got, so that it does not count as work that
// would be lost.
func (c *Changes) remember() error {
	for _, r := range c.repos {
		r.kept.SavedTree, r.kept.SavedHead, r.kept.SavedRefs = r.tree, r.heads.Head, r.heads.Refs
		r.kept.Pulling = nil
		for name, stat := range r.stats {
			path := join(r.kept.Prefix, name)
			e, ok := c.old[path]
			if !ok {
				e = wire.Entry{Path: path, Stat: wire.Stat{Type: wire.Gone}}
			}
			e.Was = stat
			c.old[path] = e
		}
	}
	return c.memory.save(c.old)
}

// ErrConflicts is an apply that would not go without conflicts: nothing was
// changed.
var ErrConflicts = errors.New("the guest's changes do not go into the work tree without conflicts")

// Marked is an apply that has put git's conflict marks into files.
type Marked struct{ Files []string }

func (m *Marked) Error() string {
	return "the guest's changes are in the work tree, with conflict marks in " + strings.Join(m.Files, ", ")
}

// Apply brings the guest's changes into the work trees, uncommitted: all of
// them, or none where any does not fit.
func (c *Changes) Apply(ctx context.Context) error {
	for _, args := range [][]string{{"apply", "--check", "--whitespace=nowarn"}, {"apply", "--whitespace=nowarn"}} {
		for _, r := range c.repos {
			patch, err := r.patch(ctx)
			if err == nil {
				err = c.checkPlain(ctx, r)
			}
			if err != nil {
				return err
			}
			if len(patch) == 0 {
				continue
			}
			if _, err := r.host().feed(ctx, bytes.NewReader(patch), args...); err != nil {
				return fmt.Errorf("%w: %w", ErrConflicts, err)
			}
		}
	}
	return nil
}

// Merge brings the guest's changes into the work trees, uncommitted, with git's
// marks in files where they do not fit, which are then told with [Marked]. Where
// marks can't show what does not fit, nothing of the repository is changed.
func (c *Changes) Merge(ctx context.Context) error {
	marked := &Marked{}
	for _, r := range c.repos {
		if err := c.checkPlain(ctx, r); err != nil {
			return err
		}
		files, err := r.merge(ctx)
		if err != nil {
			return err
		}
		for _, name := range files {
			marked.Files = append(marked.Files, join(r.kept.Prefix, name))
		}
	}
	if len(marked.Files) > 0 {
		return marked
	}
	return nil
}

// checkPlain refuses changes to files of a plain directory that the host has
// changed, too, since they went in: nothing knows what they were before.
func (c *Changes) checkPlain(ctx context.Context, r *change) error {
	if r.kept.Common != "" {
		return nil
	}
	names, err := r.names(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		now, err := wire.Look(filepath.Join(r.kept.Dir, name))
		if err != nil {
			return err
		}
		if before, ok := c.old[join(r.kept.Prefix, name)]; ok && before.Stat != now || !ok && now.Type != wire.Gone {
			return fmt.Errorf("%w: the host has changed %s, too", ErrConflicts, name)
		}
	}
	return nil
}

// names are those of the changed files.
func (r *change) names(ctx context.Context) ([]string, error) {
	out, err := r.own.git.run(ctx, "diff-tree", "-r", "-z", "--no-renames", "--name-only", r.base, r.tree)
	return fields(out), err
}

// patch is what the guest has changed, as git applies it.
func (r *change) patch(ctx context.Context) ([]byte, error) {
	return r.own.git.run(ctx, "diff", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--ignore-submodules", r.base, r.tree)
}

// merge brings the changes into the work tree and names the files that got
// marks.
func (r *change) merge(ctx context.Context) ([]string, error) {
	patch, err := r.patch(ctx)
	if err != nil || len(patch) == 0 {
		return nil, err
	}
	if r.kept.Common == "" {
		_, err := r.host().feed(ctx, bytes.NewReader(patch), "apply", "--whitespace=nowarn")
		return nil, err
	}
	g, err := r.merging(ctx)
	if err != nil {
		return nil, err
	}
	_, failed := g.feed(ctx, bytes.NewReader(patch), "apply", "--3way", "--whitespace=nowarn")
	if failed == nil {
		return nil, nil
	}
	out, err := g.run(ctx, "ls-files", "-z", "--unmerged")
	if err != nil {
		return nil, err
	}
	var marked []string
	for _, line := range fields(out) {
		if _, name, ok := strings.Cut(line, "\t"); ok && !slices.Contains(marked, name) {
			marked = append(marked, name)
		}
	}
	if len(marked) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrConflicts, failed)
	}
	return marked, nil
}

// merging is git in the work tree with an index of what the changed files are
// there now: git merges only into what its index knows, and much of a work tree
// is in no commit. The index and its objects are banger's own.
func (r *change) merging(ctx context.Context) (git, error) {
	root := r.kept.Dir
	g := r.host().with("GIT_INDEX_FILE="+r.index+"-host", "GIT_OBJECT_DIRECTORY="+filepath.Join(r.own.dir, "objects"),
		"GIT_ALTERNATE_OBJECT_DIRECTORIES="+quoteAlternate(filepath.Join(r.kept.Common, "objects")))
	names, err := r.names(ctx)
	if err != nil {
		return g, err
	}
	here := slices.DeleteFunc(names, func(name string) bool {
		if parent := dirOf(name); parent != "" && !isRealDirectory(root, parent) {
			return true
		}
		stat, err := wire.Look(filepath.Join(root, name))
		return err != nil || stat.Type != wire.File && stat.Type != wire.Link
	})
	_, err = g.feed(ctx, zero(here), "update-index", "-z", "--add", "--stdin")
	return g, err
}
