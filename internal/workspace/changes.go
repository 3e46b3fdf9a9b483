package workspace

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// The most that a guest may send back at once.
const (
	maxBytes = 4 << 30
	maxFiles = 500_000
)

// Changes are what a guest has made of a workspace since it went in. They hold
// scratch files until Close.
type Changes struct {
	memory  *memory
	old     map[string]wire.Entry
	scratch *scratch
	// Repos has those in which something is new, the outermost first.
	repos []*change
	// guest is what the guest has of the names that changed.
	guest map[string]wire.Stat
}

// change is what is new in one repository.
type change struct {
	kept   *kept
	own    own
	config []setting
	dir    string // scratch work tree
	index  string
	base   string // tree
	tree   string // of the guest's files
	heads  wire.Heads
	tip    string // the commit that holds all of it
	extra  []wire.Ref

	changed, gone []string // relative to the repository
	stats         map[string]wire.Stat
}

// ErrUnknown is a workspace that this host has not put into the VM.
var ErrUnknown = errors.New("this host knows nothing of the workspace")

// Look asks a guest what has changed in a workspace. It writes nothing outside
// of the store. A guest where nothing is at the path gives no changes.
func (s Store) Look(ctx context.Context, vm, guest string, dial Dial) (_ *Changes, err error) {
	m, err := s.load(vm, guest)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return s.lookUnknown(ctx, guest, dial)
	}
	c := &Changes{memory: m, guest: map[string]wire.Stat{}}
	if c.old, err = m.manifest(); err != nil {
		return nil, err
	}
	if c.scratch, err = newScratch(ctx, m.dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	stream, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	err = c.look(ctx, wire.NewConn(stream))
	if errors.Is(err, errMissing) {
		c.repos = nil
		return c, nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return c, err
}

// lookUnknown tells whether there is anything at all: a copy that failed leaves
// nothing.
func (s Store) lookUnknown(ctx context.Context, guest string, dial Dial) (*Changes, error) {
	stream, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	c := &Changes{memory: &memory{Guest: guest}}
	if _, err = c.scan(wire.NewConn(stream)); errors.Is(err, errMissing) {
		return c, nil
	}
	return nil, errors.Join(ErrUnknown, err)
}

// Close removes the scratch files.
func (c *Changes) Close() {
	if c.scratch != nil {
		c.scratch.remove()
	}
}

// Guest is the path in the guest, Host the one it came from.
func (c *Changes) Guest() string { return c.memory.Guest }

// Host is the path of the host that the workspace came from.
func (c *Changes) Host() string { return c.memory.Host }

// Any says whether the guest has work that did not go in.
func (c *Changes) Any() bool {
	return slices.ContainsFunc(c.repos, (*change).any)
}

// Unsaved says whether the guest has work that no pull has brought.
func (c *Changes) Unsaved() bool {
	return slices.ContainsFunc(c.repos, func(r *change) bool { return r.any() && !r.saved() })
}

func (r *change) any() bool { return r.tree != r.base || r.moved() || len(r.extra) > 0 }

func (r *change) moved() bool { return r.heads.Head != "" && r.heads.Head != r.kept.Head }

func (r *change) saved() bool {
	if r.tree != r.kept.SavedTree || r.heads.Head != r.kept.SavedHead {
		return false
	}
	return !slices.ContainsFunc(r.extra, func(ref wire.Ref) bool { return !slices.Contains(r.kept.SavedRefs, ref) })
}

// look does the talking, over one connection.
func (c *Changes) look(ctx context.Context, conn *wire.Conn) error {
	found, err := c.scan(conn)
	if err != nil {
		return err
	}
	prefixes := []string{}
	for i := range c.memory.Repos {
		prefixes = append(prefixes, c.memory.Repos[i].Prefix)
	}
	for _, e := range found {
		c.guest[e.Path] = e.Stat
	}
	// The innermost come first: an outer repository names their commits.
	moved := map[string]string{}
	for i := range slices.Backward(c.memory.Repos) {
		k := &c.memory.Repos[i]
		r := &change{kept: k, own: c.memory.ownRepo(k.Prefix), stats: map[string]wire.Stat{},
			dir: filepath.Join(c.scratch.dir, fmt.Sprint(i), "tree"), index: filepath.Join(c.scratch.dir, fmt.Sprint(i), "index")}
		for _, e := range found {
			if p, ok := owner(prefixes, e.Path); ok && p == k.Prefix && e.Path != p {
				r.stats[within(p, e.Path)] = e.Stat
			}
		}
		if err := c.repo(ctx, conn, r, moved); err != nil {
			return err
		}
		for name, stat := range r.stats {
			c.guest[join(k.Prefix, name)] = stat
		}
		if r.moved() {
			moved[k.Prefix] = r.heads.Head
		}
		if r.any() {
			c.repos = append([]*change{r}, c.repos...)
		}
	}
	return nil
}

// scan gets the names that changed.
func (c *Changes) scan(conn *wire.Conn) ([]wire.Entry, error) {
	if err := conn.JSON(wire.Ask{Deed: wire.Scan, Path: c.memory.Guest}); err != nil {
		return nil, lost(err)
	}
	for _, e := range c.old {
		if e.Type == wire.Gone {
			continue
		}
		e.Was = wire.Stat{}
		if err := conn.Entry(e); err != nil {
			return nil, lost(err)
		}
	}
	if err := conn.End(); err != nil {
		return nil, lost(err)
	}
	if err := readAnswer(conn, nil); err != nil {
		return nil, err
	}
	return readEntries(conn, 0)
}

// readEntries reads a list, of which there may be so many already.
func readEntries(conn *wire.Conn, already int) ([]wire.Entry, error) {
	var list []wire.Entry
	for {
		e, err := conn.ReadEntry()
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, lost(err)
		}
		if err := checkName(e.Path); err != nil {
			return nil, err
		}
		if already+len(list) >= maxFiles {
			return nil, tooMuch(fmt.Sprintf("more than %d files", maxFiles))
		}
		list = append(list, e)
	}
}

// checkName refuses what must never be written on a host, on top of what the
// wire refuses: git's own directory, however it is spelt.
func checkName(name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if strings.EqualFold(part, ".git") {
			return untrue("it names %q among its files", name)
		}
	}
	return nil
}

func untrue(format string, args ...any) error {
	return &api.Error{Kind: api.KindGuest, Message: "the guest does not tell the truth: " + fmt.Sprintf(format, args...),
		Hint: "nothing was taken from it; do not trust what is in it"}
}

func tooMuch(what string) error {
	return &api.Error{Kind: api.KindGuest, Message: "the guest has too much that is new: " + what,
		Hint: "let git ignore in the guest what is not work: .gitignore, or .git/info/exclude of the repository on this host; `banger vm cp` brings single files"}
}

// repo finds out what is new in one repository.
func (c *Changes) repo(ctx context.Context, conn *wire.Conn, r *change, moved map[string]string) error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	tree, err := os.OpenRoot(r.dir)
	if err != nil {
		return fmt.Errorf("cannot open a directory: %w", err)
	}
	defer tree.Close()
	if err := r.begin(ctx); err != nil {
		return err
	}
	get := getter{conn: conn, guest: c.memory.Guest, prefix: r.kept.Prefix, tree: tree, r: r, left: maxBytes}
	if err := r.sort(ctx, &get); err != nil {
		return err
	}
	if err := get.files(ctx, r.changed); err != nil {
		return err
	}
	if r.kept.Common != "" {
		if err := r.takeCommits(ctx, conn, c.memory.Guest); err != nil {
			return err
		}
	}
	return r.build(ctx, get.links, moved)
}

// scratchGit is git with the scratch tree and index. Of the host's settings it
// knows how lines end, and git-lfs.
func (r *change) scratchGit() git {
	return r.own.git.with("GIT_WORK_TREE="+r.dir, "GIT_INDEX_FILE="+r.index)
}

// begin makes the index of what went in, and the files that say what is
// ignored.
func (r *change) begin(ctx context.Context) error {
	if r.kept.Common == "" {
		return r.beginPlain(ctx)
	}
	g := r.scratchGit()
	var err error
	if r.config, err = readConfig(ctx, git{dir: r.kept.Dir}); err != nil {
		return fmt.Errorf("cannot read the repository %s, which the workspace came from: %w", r.kept.Dir, err)
	}
	if r.base, err = g.line(ctx, "rev-parse", r.kept.Base+"^{tree}"); err != nil {
		return err
	}
	if _, err := g.run(ctx, "read-tree", r.base); err != nil {
		return err
	}
	ignores, err := g.run(ctx, "ls-files", "-z", "--", ":(glob)**/.gitignore")
	if err != nil || len(ignores) == 0 {
		return err
	}
	_, err = g.feed(ctx, bytes.NewReader(ignores), "checkout-index", "-z", "--stdin", "--force")
	return err
}

// beginPlain makes a base of what the host has, now, of the files that changed.
func (r *change) beginPlain(ctx context.Context) error {
	if err := os.RemoveAll(r.own.dir); err != nil {
		return fmt.Errorf("cannot begin anew: %w", err)
	}
	g := git{dir: filepath.Dir(r.own.dir)}
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--template=", r.own.dir); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(r.own.dir, "info"), 0o700); err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	exclude, err := os.ReadFile(filepath.Join(r.kept.Dir, ignoreFile))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot read what is ignored: %w", err)
	}
	if err := os.WriteFile(filepath.Join(r.own.dir, "info", "exclude"), exclude, 0o600); err != nil {
		return fmt.Errorf("cannot remember what is ignored: %w", err)
	}
	var here []string
	for name := range r.stats {
		stat, err := wire.Look(filepath.Join(r.kept.Dir, name))
		if err != nil {
			return err
		}
		if (stat.Type == wire.File || stat.Type == wire.Link) && (dirOf(name) == "" || isRealDirectory(r.kept.Dir, dirOf(name))) {
			here = append(here, name)
		}
	}
	host := r.own.git.with("GIT_WORK_TREE="+r.kept.Dir, "GIT_INDEX_FILE="+r.index)
	host.dir = r.kept.Dir
	if _, err := host.feed(ctx, zero(here), "update-index", "-z", "--add", "--stdin"); err != nil {
		return err
	}
	if r.base, err = host.line(ctx, "write-tree"); err != nil {
		return err
	}
	r.kept.Base, err = commit(ctx, host, nil, r.base, nil, "The files as they are on the host")
	return err
}

// sort decides which of the new names count: those that git does not ignore. A
// directory that it does ignore is never looked into.
func (r *change) sort(ctx context.Context, get *getter) error {
	known, err := r.known(ctx)
	if err != nil {
		return err
	}
	var fresh []string
	for name, stat := range r.stats {
		switch {
		case stat.Type == wire.Gone:
			r.gone = append(r.gone, name)
		case known[name] && stat.Type != wire.Dir:
			r.changed = append(r.changed, name)
		default:
			fresh = append(fresh, name)
		}
	}
	for len(fresh) > 0 {
		slices.Sort(fresh)
		if r.kept.Common != "" {
			rules := slices.DeleteFunc(slices.Clone(fresh), func(name string) bool {
				return path.Base(name) != ".gitignore" || r.stats[name].Type != wire.File
			})
			for _, name := range r.changed {
				if path.Base(name) == ".gitignore" && r.stats[name].Type == wire.File {
					rules = append(rules, name)
				}
			}
			if err := get.files(ctx, rules); err != nil {
				return err
			}
		}
		ignored, err := r.ignored(ctx, fresh)
		if err != nil {
			return err
		}
		var dirs []string
		for _, name := range fresh {
			switch {
			case ignored[name]:
				delete(r.stats, name)
			case r.stats[name].Type == wire.Dir:
				dirs = append(dirs, name)
				delete(r.stats, name)
			default:
				r.changed = append(r.changed, name)
			}
		}
		if fresh, err = get.list(dirs); err != nil {
			return err
		}
	}
	slices.Sort(r.changed)
	r.changed = slices.Compact(r.changed)
	return nil
}

// known are the names of the base. What the guest has below a submodule that
// was not there when it went in is the submodule's, and left out.
func (r *change) known(ctx context.Context) (map[string]bool, error) {
	out, err := r.scratchGit().run(ctx, "ls-files", "-z", "--stage")
	if err != nil {
		return nil, err
	}
	known := map[string]bool{}
	var links []string
	for _, line := range fields(out) {
		head, name, _ := strings.Cut(line, "\t")
		known[name] = true
		if strings.HasPrefix(head, gitlink) {
			links = append(links, name)
		}
	}
	for name := range r.stats {
		if _, below := owner(links, name); below {
			delete(r.stats, name)
		}
	}
	return known, nil
}

func (r *change) ignored(ctx context.Context, names []string) (map[string]bool, error) {
	asked := make([]string, len(names))
	for i, name := range names {
		asked[i] = name
		if r.stats[name].Type == wire.Dir {
			asked[i] += "/"
		}
	}
	out, err := r.scratchGit().feed(ctx, zero(asked), "check-ignore", "-z", "--stdin")
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		err = nil // none is
	}
	if err != nil {
		return nil, err
	}
	ignored := map[string]bool{}
	for _, name := range fields(out) {
		ignored[strings.TrimSuffix(name, "/")] = true
	}
	return ignored, nil
}

// getter brings files of one repository into its scratch tree, where nothing
// but plain files is ever made.
type getter struct {
	conn   *wire.Conn
	guest  string
	prefix string
	tree   *os.Root
	r      *change
	left   int64
	have   map[string]bool
	links  map[string]string
}

// list looks into directories that are new.
func (g *getter) list(dirs []string) ([]string, error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	if err := g.ask(wire.List, dirs); err != nil {
		return nil, err
	}
	entries, err := readEntries(g.conn, len(g.r.stats))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := within(g.prefix, e.Path)
		if !slices.Contains(dirs, path.Dir(name)) {
			return nil, untrue("asked for a directory, it tells of %q", e.Path)
		}
		g.r.stats[name] = e.Stat
		names = append(names, name)
	}
	return names, nil
}

func (g *getter) ask(deed wire.Deed, names []string) error {
	full := make([]string, len(names))
	for i, name := range names {
		full[i] = join(g.prefix, name)
	}
	if err := g.conn.JSON(wire.Ask{Deed: deed, Path: g.guest}); err != nil {
		return lost(err)
	}
	if err := g.conn.Names(full); err != nil {
		return lost(err)
	}
	return readAnswer(g.conn, nil)
}

// files gets the contents of those that were not got yet.
func (g *getter) files(ctx context.Context, names []string) error {
	if g.have == nil {
		g.have, g.links = map[string]bool{}, map[string]string{}
	}
	var wanted []string
	for _, name := range names {
		if !g.have[name] {
			g.have[name] = true
			wanted = append(wanted, name)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := g.ask(wire.Get, wanted); err != nil {
		return err
	}
	for _, name := range wanted {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := g.one(name); err != nil {
			return err
		}
	}
	return nil
}

func (g *getter) one(name string) error {
	e, err := g.conn.ReadEntry()
	if err != nil {
		return lost(err)
	}
	if e.Path != join(g.prefix, name) {
		return untrue("asked for %q it gives %q", name, e.Path)
	}
	g.r.stats[name] = e.Stat
	switch e.Type {
	case wire.Link:
		g.links[name] = e.Target
		return nil
	case wire.File:
		return g.file(name, e.Stat)
	case wire.Gone:
		g.r.gone = append(g.r.gone, name)
		return nil
	}
	return untrue("%q became a directory meanwhile", name)
}

func (g *getter) file(name string, s wire.Stat) error {
	if g.left -= s.Size; g.left < 0 {
		return tooMuch(fmt.Sprintf("more than %d GiB", maxBytes>>30))
	}
	if dir := path.Dir(name); dir != "." {
		if err := g.tree.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot take %q from the guest: %w", name, err)
		}
	}
	mode := os.FileMode(0o600)
	if s.Mode&0o111 != 0 {
		mode = 0o700
	}
	// What was checked out to say what is ignored gives way.
	if err := g.tree.Remove(name); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot take %q from the guest: %w", name, err)
	}
	file, err := g.tree.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("cannot take %q from the guest: %w", name, err)
	}
	_, err = io.Copy(file, g.conn.Contents(s.Size))
	if err = errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("cannot take %q from the guest: %w", name, err)
	}
	return nil
}

// build makes the tree of the guest's files, and the commit that brings it.
func (r *change) build(ctx context.Context, links, moved map[string]string) error {
	g := r.scratchGit()
	if len(r.gone) > 0 {
		if _, err := g.feed(ctx, zero(r.gone), "update-index", "-z", "--force-remove", "--stdin"); err != nil {
			return err
		}
	}
	var files []string
	for _, name := range r.changed {
		if r.stats[name].Type == wire.File {
			files = append(files, name)
		}
	}
	if len(files) > 0 {
		args := append(r.filters(), "-c", "core.safecrlf=false", "update-index", "-z", "--add", "--replace", "--stdin")
		if _, err := g.feed(ctx, zero(files), args...); err != nil {
			return fmt.Errorf("cannot take the guest's files: %w", err)
		}
	}
	if err := r.addOthers(ctx, links, moved); err != nil {
		return err
	}
	args := []string{"write-tree"}
	if r.partial() {
		args = append(args, "--missing-ok")
	}
	var err error
	if r.tree, err = g.line(ctx, args...); err != nil {
		return err
	}
	r.tip, err = commit(ctx, g, r.config, r.tree, []string{r.parent()}, "Uncommitted work from the guest")
	return err
}

// parent is the commit that the guest's files are changed since; where nothing is,
// it is the tip.
func (r *change) parent() string {
	if r.moved() {
		return r.heads.Head
	}
	return r.kept.Base
}

func (r *change) partial() bool { return (&repo{config: r.config}).isPartial() }

// addOthers puts links, and the commits of inner repositories, into the index.
func (r *change) addOthers(ctx context.Context, links, moved map[string]string) error {
	g := r.scratchGit()
	var lines []string
	for name, target := range links {
		oid, err := g.feedLine(ctx, target, "hash-object", "-w", "--stdin")
		if err != nil {
			return err
		}
		lines = append(lines, "120000 "+oid+"\t"+name)
	}
	out, err := g.run(ctx, "ls-files", "-z", "--stage")
	if err != nil {
		return err
	}
	for _, line := range fields(out) {
		head, name, _ := strings.Cut(line, "\t")
		if oid := moved[join(r.kept.Prefix, name)]; oid != "" && strings.HasPrefix(head, gitlink) {
			lines = append(lines, gitlink+" "+oid+"\t"+name)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	_, err = g.feed(ctx, zero(lines), "update-index", "-z", "--add", "--replace", "--index-info")
	return err
}

func (g git) feedLine(ctx context.Context, stdin string, args ...string) (string, error) {
	out, err := g.feed(ctx, strings.NewReader(stdin), args...)
	return strings.TrimSuffix(string(out), "\n"), err
}

// filters are what the host has configured of how files become objects. Of
// programs git-lfs alone is run: the guest chose the files and the attributes.
func (r *change) filters() []string {
	var args []string
	for _, key := range []string{"core.autocrlf", "core.eol", "filter.lfs.clean", "filter.lfs.process", "filter.lfs.required"} {
		if v := value(r.config, key); v != "" {
			args = append(args, "-c", key+"="+v)
		}
	}
	if value(r.config, "filter.lfs.clean") != "" {
		args = append(args, "-c", "lfs.storage="+filepath.Join(r.kept.Common, "lfs"))
	}
	return args
}

var (
	hexOID  = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	refName = regexp.MustCompile(`^refs/(heads/[^\x00-\x20\x7f~^:?*\[\\]{1,200}|stash)$`)
)

// takeCommits gets the guest's own commits and lets git check them, object by
// object, before anything is done with them.
func (r *change) takeCommits(ctx context.Context, conn *wire.Conn, guest string) error {
	have := (&repo{refs: r.kept.Refs, head: r.kept.Head}).oids()
	if err := conn.JSON(wire.Ask{Deed: wire.Git, Path: guest, Repo: r.kept.Prefix}); err != nil {
		return lost(err)
	}
	if err := conn.Names(have); err != nil {
		return lost(err)
	}
	if err := readAnswer(conn, &r.heads); err != nil {
		return err
	}
	if err := r.checkHeads(); err != nil {
		return err
	}
	pack := bufio.NewReader(conn.ReadChunks())
	if _, err := pack.Peek(1); err == nil {
		check := "--strict"
		if r.partial() {
			check = "--fsck-objects" // the links lead to what the clone has left out
		}
		err := r.own.git.pipe(ctx, pack, io.Discard, "-c", "transfer.fsckObjects=true", "index-pack", check, "--stdin", "--fix-thin", fmt.Sprintf("--max-input-size=%d", int64(maxBytes)))
		if err != nil {
			return fmt.Errorf("cannot take the guest's commits: %w", err)
		}
	} else if !errors.Is(err, io.EOF) {
		return lost(err)
	}
	if _, err := io.Copy(io.Discard, pack); err != nil {
		return lost(err)
	}
	return r.checkTips(ctx, have)
}

func (r *change) checkHeads() error {
	if r.heads.Head != "" && !hexOID.MatchString(r.heads.Head) {
		return untrue("%q is no commit", cut(r.heads.Head))
	}
	if r.heads.Branch != "" && !refName.MatchString(r.heads.Branch) {
		r.heads.Branch = ""
	}
	for _, ref := range r.heads.Refs {
		if !refName.MatchString(ref.Name) || !hexOID.MatchString(ref.OID) || strings.Contains(ref.Name, "..") {
			return untrue("%q is no branch", cut(ref.Name))
		}
	}
	return nil
}

// checkTips sorts out which branches of the guest are new, and makes sure that
// all that they reach has come.
func (r *change) checkTips(ctx context.Context, have []string) error {
	var tips []string
	if r.moved() {
		tips = append(tips, r.heads.Head)
	}
	for _, ref := range r.heads.Refs {
		if ref.Name == r.heads.Branch || ref.OID == r.heads.Head || slices.Contains(have, ref.OID) {
			continue
		}
		r.extra = append(r.extra, ref)
		tips = append(tips, ref.OID)
	}
	if len(tips) == 0 {
		return nil
	}
	args := append([]string{"rev-list", "--objects", "--quiet"}, r.promisor()...)
	args = append(args, tips...)
	args = append(args, "--not", r.kept.Base)
	if _, err := r.own.git.run(ctx, args...); err != nil {
		return untrue("its commits are not whole: %v", err)
	}
	return nil
}

func (r *change) promisor() []string {
	if r.partial() {
		return []string{"--missing=allow-any"}
	}
	return nil
}
