package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// Options say what of a path goes in.
type Options struct {
	// Branch is a branch to make in the guest; "" keeps the one that is
	// checked out.
	Branch string
	// From is a commit whose files go in instead of the work tree's.
	From string
}

// Source is a path that was looked at and is fit to go in. What goes in is
// listed; contents are read when they are sent.
type Source struct {
	// Path is absolute and without symbolic links.
	Path string

	options  Options
	root     string // where the files are: Path, or a checkout of From
	checkout string // to remove at the end
	entries  []wire.Entry
	repos    []*repo // the outermost first; none for a plain directory
}

// Open looks at a path: a repository's work tree, or any other directory. What
// is wrong with it is found here, before anything is changed anywhere.
func Open(ctx context.Context, path string, o Options) (_ *Source, err error) {
	real, err := checkDirectory(path)
	if err != nil {
		return nil, err
	}
	s := &Source{Path: real, root: real, options: o}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if !isRepository(real) {
		if o.Branch != "" || o.From != "" {
			return nil, bad("--branch and --from are for repositories", "%s is no git repository", real)
		}
		if err := checkPlain(ctx, real); err != nil {
			return nil, err
		}
		return s, s.walk(ctx)
	}
	top, err := openRepo(ctx, real, "")
	if err != nil {
		return nil, err
	}
	if err := s.start(ctx, top); err != nil {
		return nil, err
	}
	return s, s.collect(ctx, top)
}

// Close removes what Open has made.
func (s *Source) Close() {
	if s.checkout != "" {
		os.RemoveAll(s.checkout)
	}
}

// Name is the last part of the path, after which the guest's directory is
// called.
func (s *Source) Name() string { return filepath.Base(s.Path) }

// IsRepository says whether the path is a git repository's work tree.
func (s *Source) IsRepository() bool { return len(s.repos) > 0 && s.repos[0].prefix == "" }

// HasTooling says whether the tree names tools that mise can install.
func (s *Source) HasTooling() bool {
	return slices.ContainsFunc(s.entries, func(e wire.Entry) bool {
		return e.Type == wire.File && (e.Path == ".mise.toml" || e.Path == "mise.toml" || e.Path == ".tool-versions")
	})
}

func bad(hint, format string, args ...any) error {
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func checkDirectory(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", bad("a workspace is a directory; a command comes after --: `banger vm run -- "+path+"`", "there is no directory %s", path)
	case err != nil:
		return "", bad("", "cannot look at %s: %v", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", bad("", "cannot look at %s: %v", path, err)
	}
	if !info.IsDir() {
		return "", bad("a workspace is a directory; a command comes after --: `banger vm run -- "+path+"`", "%s is a file", path)
	}
	if abs == "/" {
		return "", bad("give the directory of one project", "the whole host can't be a workspace")
	}
	if looksBare(abs) {
		return "", bad("`git clone` it, and give the clone", "%s is a bare repository: it has no work tree", abs)
	}
	return abs, nil
}

// isRepository says whether a directory is the top of a work tree: .git is a
// directory, or in linked work trees and submodules a file.
func isRepository(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, ".git"))
	return err == nil
}

// looksBare says whether a directory is git's own, by what git itself looks for.
func looksBare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// checkPlain refuses a part of a repository: without its top it would be a
// tree that says nothing of its history, with files that git ignores.
func checkPlain(ctx context.Context, dir string) error {
	g := git{dir: dir}
	top, err := g.line(ctx, "rev-parse", "--show-toplevel")
	if err != nil || top == "" {
		return nil // no repository, or no git to ask
	}
	if _, err := g.run(ctx, "check-ignore", "--quiet", dir); err == nil {
		return nil
	}
	return bad(fmt.Sprintf("give the repository: %s", top), "%s is a directory within the repository %s", dir, top)
}

// collect lists what goes in of a repository and of those within it.
func (s *Source) collect(ctx context.Context, r *repo) error {
	s.repos = append(s.repos, r)
	tracked, untracked, err := r.list(ctx)
	if err != nil {
		return err
	}
	v := visitor{s: s, root: r.dir, prefix: r.prefix}
	for _, t := range tracked {
		if t.mode == gitlink {
			r.links = append(r.links, t.path)
			continue
		}
		here, err := v.visit(t.path)
		switch {
		case err != nil:
			return err
		case here:
			r.files = append(r.files, t.path)
		case !t.skipped:
			r.gone = append(r.gone, t.path)
		}
	}
	var nested []string
	for _, path := range untracked {
		if dir, ok := strings.CutSuffix(path, "/"); ok {
			nested = append(nested, dir) // git looks into no other repository
			continue
		}
		here, err := v.visit(path)
		if err != nil {
			return err
		}
		if here {
			r.files = append(r.files, path)
		}
	}
	for _, dir := range append(slices.Clone(r.links), nested...) {
		if err := s.nested(ctx, r, dir); err != nil {
			return err
		}
	}
	return nil
}

// nested takes a repository within another along: a submodule, or one that
// lies there.
func (s *Source) nested(ctx context.Context, outer *repo, dir string) error {
	full := filepath.Join(outer.dir, dir)
	prefix := join(outer.prefix, dir)
	info, err := os.Lstat(full)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot look at %s: %w", full, err)
	}
	if !info.IsDir() || !isRepository(full) {
		s.entries = append(s.entries, wire.Entry{Path: prefix, Stat: wire.Stat{Type: wire.Dir, Mode: 0o755}})
		return nil
	}
	inner, err := openRepo(ctx, full, prefix)
	if err != nil {
		return err
	}
	return s.collect(ctx, inner)
}

func join(prefix, path string) string {
	if prefix == "" {
		return path
	}
	return prefix + "/" + path
}

// visitor looks at the names that git lists, without following a link: where a
// directory of the index is a link by now, there is nothing behind it.
type visitor struct {
	s      *Source
	root   string
	prefix string

	dir  string // the last one that was looked at
	real bool
}

// visit adds a name to what goes in, if it is there.
func (v *visitor) visit(path string) (bool, error) {
	if !v.isReal(dirOf(path)) {
		return false, nil
	}
	stat, err := wire.Look(filepath.Join(v.root, path))
	if err != nil {
		return false, err
	}
	if stat.Type != wire.File && stat.Type != wire.Link {
		return false, nil
	}
	v.s.entries = append(v.s.entries, wire.Entry{Path: join(v.prefix, path), Stat: stat})
	return true, nil
}

func dirOf(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}

func (v *visitor) isReal(dir string) bool {
	if dir == "" {
		return true
	}
	if dir != v.dir {
		v.dir, v.real = dir, isRealDirectory(v.root, dir)
	}
	return v.real
}

// isRealDirectory says whether every part of dir below root is a directory and
// no link.
func isRealDirectory(root, dir string) bool {
	for _, part := range append(wire.Parents(dir), dir) {
		info, err := os.Lstat(filepath.Join(root, part))
		if err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// ignoreFile names, in git's own syntax, what of a plain directory stays out.
const ignoreFile = ".bangerignore"

// walk lists a plain directory: all of it, but what .bangerignore names.
// Repositories within go in as repositories do.
func (s *Source) walk(ctx context.Context) error {
	ignored, err := s.ignored(ctx)
	if err != nil {
		return err
	}
	return filepath.WalkDir(s.root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("cannot read the directory: %w", err)
		}
		if full == s.root {
			return nil
		}
		path := strings.TrimPrefix(full, s.root+"/")
		if ignored[path] {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() && isRepository(full) {
			inner, err := openRepo(ctx, full, path)
			if err != nil {
				return err
			}
			if err := s.collect(ctx, inner); err != nil {
				return err
			}
			return fs.SkipDir
		}
		stat, err := wire.Look(full)
		if err != nil {
			return err
		}
		if stat.Type != wire.Gone {
			s.entries = append(s.entries, wire.Entry{Path: path, Stat: stat})
		}
		return nil
	})
}

// ignored asks git which names .bangerignore means. Directories are named
// without what is in them.
func (s *Source) ignored(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	file := filepath.Join(s.root, ignoreFile)
	if info, err := os.Lstat(file); err != nil || !info.Mode().IsRegular() {
		return names, nil
	}
	empty, err := os.MkdirTemp("", "banger-ignore")
	if err != nil {
		return nil, fmt.Errorf("cannot make a directory: %w", err)
	}
	defer os.RemoveAll(empty)
	g := git{dir: s.root}
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--template=", empty); err != nil {
		return nil, err
	}
	out, err := g.run(ctx, "--git-dir="+empty, "--work-tree="+s.root, "ls-files", "-z", "--others", "--ignored", "--directory", "--exclude-from="+file)
	if err != nil {
		return nil, err
	}
	for _, name := range fields(out) {
		names[strings.TrimSuffix(name, "/")] = true
	}
	return names, nil
}
