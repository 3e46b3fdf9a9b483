package workspace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/workspace/wire"
)

// Dial opens a connection to the workspaces of the guest's agent.
type Dial func(ctx context.Context) (io.ReadWriteCloser, error)

// Target says where a workspace goes.
type Target struct {
	VM    string // id
	Name  string // of the VM, for people
	Guest string // path in the guest
	Dial  Dial
	// Announce tells that the workspace is about to come to its place, where it
	// may hold work from then on. A put that the guest refuses does not come to it.
	Announce func(ctx context.Context) error
	// Force puts it over what the guest has there, its own work too.
	Force bool
	// Tooling lets mise install in the background what the tree names.
	Tooling bool
}

// Report is told how many bytes of how many have been sent.
type Report func(done, total int64)

// Summary is what a put did.
type Summary struct {
	Guest   string        `json:"guest_path"`
	Files   int64         `json:"files"`   // sent, git's own among them
	Bytes   int64         `json:"bytes"`   // of their contents
	Removed int64         `json:"removed"` // from the guest
	Took    time.Duration `json:"took_ns"`
	Update  bool          `json:"update"` // only what had changed
}

// Put brings the source into a guest: all of it, or what has changed since the
// last time. It is remembered in the store when the guest has it.
func (s *Source) Put(ctx context.Context, store Store, t Target, report Report) (Summary, error) {
	begun := time.Now()
	before, err := s.recall(store, t)
	if err != nil {
		return Summary{}, err
	}
	sum, err := s.put(ctx, store, t, before, report)
	var refused *Refused
	if before != nil && errors.As(err, &refused) && refused.Kind == wire.Exists {
		// It is gone from the guest: all of it goes in again.
		sum, err = s.put(ctx, store, t, nil, report)
	}
	sum.Took = time.Since(begun)
	return sum, err
}

// recall gives what is remembered of the workspace, if it came from here.
func (s *Source) recall(store Store, t Target) (*memory, error) {
	before, err := store.load(t.VM, t.Guest)
	if err != nil || before == nil {
		return nil, err
	}
	if before.Host == s.Path {
		return before, nil
	}
	if t.Force {
		return nil, nil
	}
	return nil, bad("another --guest-path keeps both; --force replaces it", "%s in %s is the workspace of %s", t.Guest, t.Name, before.Host)
}

// transfer is what one put sends.
type transfer struct {
	source  *Source
	before  *memory
	old     map[string]wire.Entry
	scratch string

	ask   wire.Ask
	items []item
	after *memory
	// changed are the paths, of files and links, that the base must take up.
	changed, removed []string
}

// item is an entry and where its contents are.
type item struct {
	wire.Entry
	data []byte
	file string
	work bool // of the work tree, not of git
}

func (s *Source) put(ctx context.Context, store Store, t Target, before *memory, report Report) (Summary, error) {
	x := &transfer{source: s, before: before, old: map[string]wire.Entry{}}
	x.after = &memory{Format: memoryFormat, Host: s.Path, Guest: t.Guest, Put: time.Now().UTC(), dir: store.dir(t.VM, t.Guest)}
	x.ask = wire.Ask{Deed: wire.Put, Path: t.Guest, Update: before != nil, Force: t.Force, Tooling: t.Tooling && s.HasTooling()}
	if err := os.MkdirAll(x.after.dir, 0o700); err != nil {
		return Summary{}, fmt.Errorf("cannot make a directory to remember the workspace: %w", err)
	}
	scratch, err := newScratch(ctx, x.after.dir)
	if err != nil {
		return Summary{}, err
	}
	defer scratch.remove()
	x.scratch = scratch.dir
	store.step("put.plan")
	if err := x.plan(ctx); err != nil {
		return Summary{}, err
	}
	sum := Summary{Guest: t.Guest, Update: before != nil}
	return sum, x.carry(ctx, store, t, &sum, report)
}

// carry brings what was planned to the guest. A new workspace is remembered
// before the guest puts it to its place: one that nobody remembers would be in
// the way of the same put again. Anything else is remembered afterwards, since
// it can be put again where only the guest has it.
func (x *transfer) carry(ctx context.Context, store Store, t Target, sum *Summary, report Report) error {
	store.step("put.send")
	s, err := x.open(ctx, t.Dial)
	if err != nil {
		return err
	}
	defer s.close()
	all, both := errgroup.WithContext(ctx)
	all.Go(func() error { return s.send(both, x, sum, report) })
	all.Go(func() error { return x.computeBases(both) })
	if err := all.Wait(); err != nil {
		return err
	}
	isNew := !x.ask.Update && !x.ask.Force
	if isNew {
		if err := x.remember(store); err != nil {
			return err
		}
	}
	if err := t.Announce(ctx); err != nil {
		return err
	}
	store.step("put.finish")
	if err := s.finish(ctx); err != nil || isNew {
		return err
	}
	return x.remember(store)
}

// remember keeps what the host must know of the workspace.
func (x *transfer) remember(store Store) error {
	store.step("put.remember")
	if err := x.keepIndexes(); err != nil {
		return err
	}
	return x.after.save(x.manifest())
}

// keepIndexes keeps the indexes that the bases were made with.
func (x *transfer) keepIndexes() error {
	for i, r := range x.source.repos {
		err := os.Rename(x.baseIndex(i), x.after.ownRepo(r.prefix).index())
		if err != nil && !os.IsNotExist(err) { // an empty repository has none
			return fmt.Errorf("cannot remember the state of %s: %w", r.dir, err)
		}
	}
	return nil
}

// baseIndex is the index in which a base is made: a put that fails, or whose
// git is killed, leaves the kept one as it was.
func (x *transfer) baseIndex(i int) string {
	return filepath.Join(x.scratch, fmt.Sprint("base-", i))
}

// plan lists what must be sent.
func (x *transfer) plan(ctx context.Context) error {
	if x.before != nil {
		var err error
		if x.old, err = x.before.manifest(); err != nil {
			return err
		}
	}
	x.planFiles()
	for _, r := range x.source.repos {
		if err := x.planRepo(ctx, r); err != nil {
			return err
		}
	}
	if !x.source.IsRepository() {
		x.after.Repos = append(x.after.Repos, x.plainRepo())
	}
	x.ask.Entries = int64(len(x.items))
	for _, i := range x.items {
		if i.Type == wire.File {
			x.ask.Bytes += i.Size
		}
	}
	return nil
}

func (x *transfer) planFiles() {
	now := make(map[string]bool, len(x.source.entries))
	for _, e := range x.source.entries {
		now[e.Path] = true
		old, was := x.old[e.Path]
		if was && old.Stat == e.Stat {
			continue
		}
		e.Was = expected(old, was)
		if e.Type == wire.Dir {
			e.Was = wire.Stat{}
		}
		x.items = append(x.items, item{Entry: e, file: filepath.Join(x.source.root, e.Path), work: true})
		if e.Type != wire.Dir {
			x.changed = append(x.changed, e.Path)
		}
	}
	for path, old := range x.old {
		if now[path] || old.Type == wire.Gone {
			continue
		}
		x.items = append(x.items, item{Entry: wire.Entry{Path: path, Stat: wire.Stat{Type: wire.Gone}, Was: expected(old, true)}})
		x.removed = append(x.removed, path)
	}
}

// expected is what the guest should have of a name.
func expected(old wire.Entry, was bool) wire.Stat {
	switch {
	case !was:
		return wire.Stat{Type: wire.Gone}
	case old.Was.Type != wire.End:
		return old.Was // the guest's own, which a pull has brought
	}
	return old.Stat
}

// planRepo adds git's own files of a repository.
func (x *transfer) planRepo(ctx context.Context, r *repo) error {
	old := x.before.repo(r.prefix)
	if old != nil {
		// What a pull has brought is no news for the guest.
		r.refs = slices.DeleteFunc(r.refs, func(ref wire.Ref) bool {
			return old.isPulled(strings.TrimPrefix(ref.Name, "refs/heads/"), ref.OID)
		})
	}
	k := kept{Prefix: r.prefix, Dir: r.dir, Common: r.common, Format: r.format, Head: r.head, Branch: r.branch,
		Refs: r.refs, Index: r.sum, HeadFile: r.headFile()}
	if x.source.checkout != "" {
		k.Dir = x.source.Path
	}
	scratch := filepath.Join(x.scratch, fmt.Sprint(len(x.after.Repos)))
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	files, have := []outgoing{}, []string{}
	refsMoved, indexMoved := true, true
	if old != nil {
		k.Pulled, k.Pulling, k.SavedTree, k.PackedRefs = old.Pulled, old.Pulling, old.SavedTree, old.PackedRefs
		refsMoved = old.HeadFile != k.HeadFile || !slices.Equal(old.Refs, k.Refs)
		indexMoved = refsMoved || old.Index != k.Index
		if !indexMoved {
			k.SavedHead, k.SavedRefs = old.SavedHead, old.SavedRefs
		}
		have = (&repo{refs: old.Refs, head: old.Head}).oids()
	} else {
		setup, err := r.setupFiles()
		if err != nil {
			return err
		}
		files = append(files, setup...)
		for _, dir := range []string{"objects/pack", "refs/heads", "refs/tags"} {
			x.add(r, outgoing{path: dir, stat: wire.Stat{Type: wire.Dir, Mode: 0o755}}, wire.Stat{})
		}
	}
	if indexMoved {
		moved, err := x.movedFiles(ctx, r, scratch, have)
		if err != nil {
			return err
		}
		files = append(files, moved...)
	}
	if indexMoved && old != nil {
		x.ask.Repos = append(x.ask.Repos, old.expect())
	}
	for _, f := range files {
		x.add(r, f, wire.Stat{})
	}
	if refsMoved {
		for _, f := range r.refFiles() {
			var was wire.Stat
			if f.path == "packed-refs" {
				if old != nil && old.SavedHead == "" {
					was = old.PackedRefs
				}
				k.PackedRefs = f.stat
			}
			x.add(r, f, was)
		}
	} else if indexMoved {
		// The guest drops refs in files of their own; these are the same.
		for _, ref := range r.symrefs {
			x.add(r, text(ref.Name, "ref: "+ref.OID+"\n"), wire.Stat{})
		}
	}
	x.after.Repos = append(x.after.Repos, k)
	return nil
}

// plainRepo stands for the files that are in no repository of the host's.
func (x *transfer) plainRepo() kept {
	k := kept{Dir: x.source.Path, Format: "sha1"}
	if old := x.before.repo(""); old != nil {
		k.SavedTree, k.Pulled, k.Pulling = old.SavedTree, old.Pulled, old.Pulling
	}
	return k
}

// movedFiles are the index and the objects that came with it.
func (x *transfer) movedFiles(ctx context.Context, r *repo, scratch string, have []string) ([]outgoing, error) {
	files, err := r.pack(ctx, scratch, have)
	if err != nil || r.index == "" {
		return files, err
	}
	index, err := r.indexFile(ctx, scratch)
	return append(files, index), err
}

// expect is what the guest's refs may be, for the host's to take their place:
// the host's of before, or those that a pull has brought.
func (k *kept) expect() wire.Repo {
	repo := wire.Repo{Prefix: k.Prefix, Heads: []string{k.HeadFile}, Refs: k.SavedRefs}
	if k.SavedHead != "" {
		repo.Heads = append(repo.Heads, k.SavedHead)
		for _, ref := range k.SavedRefs {
			repo.Heads = append(repo.Heads, "ref: "+ref.Name)
		}
	}
	return repo
}

func (x *transfer) add(r *repo, f outgoing, was wire.Stat) {
	x.items = append(x.items, item{
		Entry: wire.Entry{Path: join(r.prefix, ".git/"+f.path), Stat: f.stat, Was: was},
		data:  f.data, file: f.file,
	})
}

// manifest is what is remembered of the entries.
func (x *transfer) manifest() map[string]wire.Entry {
	entries := make(map[string]wire.Entry, len(x.source.entries))
	for _, e := range x.source.entries {
		if old, ok := x.old[e.Path]; ok && old.Stat == e.Stat {
			e.Was = old.Was
		}
		entries[e.Path] = e
	}
	for path, old := range x.old {
		if _, ok := entries[path]; !ok && old.Type == wire.Gone {
			entries[path] = old
		}
	}
	// What was sent counts, not what was listed before.
	for _, i := range x.items {
		if e, ok := entries[i.Path]; ok && i.work {
			e.Stat, e.Was = i.Stat, wire.Stat{}
			entries[i.Path] = e
		}
	}
	return entries
}

// The kinds of a guest's refusals.
const (
	Conflict = wire.Conflict // its own work is in the way
	Full     = wire.Full     // its disk is full
	Exists   = wire.Exists   // something else is at the path
)

// Refused is a guest that would not do what it was asked.
type Refused struct {
	Kind      wire.Kind
	Message   string
	Conflicts []string
}

func (r *Refused) Error() string { return r.Message }

// sending is a connection on which a put goes to the guest. The guest's answer
// is awaited all along: one that gives up says so at once.
type sending struct {
	conn     *wire.Conn
	stream   io.Closer
	answered chan error
}

// answers are how many a guest gives to a put: that it has all, and that the
// workspace is in its place.
const answers = 2

func (x *transfer) open(ctx context.Context, dial Dial) (*sending, error) {
	stream, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	s := &sending{conn: wire.NewConn(stream), stream: stream, answered: make(chan error, answers)}
	go func() {
		for range answers {
			err := readAnswer(s.conn, nil)
			if err != nil {
				stream.Close() // what is still to be sent is not wanted
			}
			s.answered <- err
			if err != nil {
				return
			}
		}
	}()
	return s, nil
}

func (s *sending) close() { s.stream.Close() }

// send carries the items to the guest, which has them all when it returns.
func (s *sending) send(ctx context.Context, x *transfer, sum *Summary, report Report) error {
	defer context.AfterFunc(ctx, s.close)()
	err := x.sendAll(s.conn, sum, report)
	if err != nil && isOurs(err) {
		return err
	}
	return s.answer(ctx)
}

// finish lets the guest put the workspace to its place.
func (s *sending) finish(ctx context.Context) error {
	defer context.AfterFunc(ctx, s.close)()
	_ = s.conn.JSON(wire.Go{}) // the answer tells why a guest does not take it
	return s.answer(ctx)
}

func (s *sending) answer(ctx context.Context) error {
	err := <-s.answered
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// ourError is one of this side, not of the connection.
type ourError struct{ error }

func (e *ourError) Unwrap() error { return e.error }

func isOurs(err error) bool {
	var ours *ourError
	return errors.As(err, &ours)
}

func readAnswer(conn *wire.Conn, git *wire.Heads) error {
	var a wire.Answer
	if err := conn.ReadJSON(&a); err != nil {
		return lost(err)
	}
	switch {
	case a.Error != "" || a.Kind != "":
		return refusedBy(a)
	case a.Missing:
		return errMissing
	case a.Git != nil && git != nil:
		*git = *a.Git
	}
	return nil
}

// errMissing is a guest where nothing is at the workspace's path.
var errMissing = errors.New("there is nothing at the workspace's path in the guest")

func lost(err error) error {
	return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("the connection to the guest was lost: %v", err),
		Hint: "the copy was not finished, and its parts are removed; `banger vm list` shows whether the VM runs"}
}

// maxWords bounds a guest's text that is shown.
const maxWords = 1000

// refusedBy makes an error of a guest's answer. Who shows it takes out what
// could drive a terminal.
func refusedBy(a wire.Answer) error {
	r := &Refused{Kind: a.Kind, Message: cut(a.Error)}
	for _, path := range a.Conflicts[:min(len(a.Conflicts), wire.MaxConflicts)] {
		r.Conflicts = append(r.Conflicts, cut(path))
	}
	return r
}

func cut(text string) string { return text[:min(len(text), maxWords)] }

func (x *transfer) sendAll(conn *wire.Conn, sum *Summary, report Report) error {
	if err := conn.JSON(x.ask); err != nil {
		return err
	}
	// Links are sent where they are listed; the guest makes them last.
	for i := range x.items {
		if err := x.sendOne(conn, &x.items[i]); err != nil {
			return err
		}
		if x.items[i].Type == wire.Gone {
			sum.Removed++
			continue
		}
		sum.Files++
		sum.Bytes += x.items[i].Size
		if report != nil {
			report(sum.Bytes, x.ask.Bytes)
		}
	}
	return conn.End()
}

func (x *transfer) sendOne(conn *wire.Conn, i *item) error {
	if i.Type != wire.File {
		return conn.Entry(i.Entry)
	}
	if i.file == "" {
		if err := conn.Entry(i.Entry); err != nil {
			return err
		}
		_, err := conn.Write(i.data)
		return err
	}
	fd, err := unix.Open(i.file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &ourError{bad("make it readable, or let git ignore it", "cannot read %s: %v", i.file, err)}
	}
	file := os.NewFile(uintptr(fd), i.file)
	defer file.Close()
	if err := conn.Entry(i.Entry); err != nil {
		return err
	}
	n, err := io.CopyN(conn, file, i.Size)
	if n < i.Size && (err == nil || errors.Is(err, io.EOF)) {
		return &ourError{bad("try again when nothing writes to it", "%s became shorter while it was copied", i.file)}
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return &ourError{fmt.Errorf("cannot read %s: %w", i.file, err)}
	}
	return err
}

// computeBases makes, for each repository, the commit of its work tree as it
// goes in.
func (x *transfer) computeBases(ctx context.Context) error {
	prefixes := make([]string, len(x.after.Repos))
	for i, k := range x.after.Repos {
		prefixes[i] = k.Prefix
	}
	changed, removed := byOwner(prefixes, x.changed), byOwner(prefixes, x.removed)
	for i, r := range x.source.repos {
		k := &x.after.Repos[i]
		o := x.after.ownRepo(r.prefix)
		fresh := x.before.repo(r.prefix) == nil
		begin := o.index()
		if fresh {
			begin = r.index
			if err := o.make(ctx, r); err != nil {
				return err
			}
		} else if err := o.follow(r); err != nil {
			return err
		}
		if err := copyIndex(x.baseIndex(i), begin); err != nil {
			return err
		}
		add, remove := changed[r.prefix], removed[r.prefix]
		if fresh {
			add, remove = r.files, r.gone
		}
		base, err := o.base(ctx, r, x.baseIndex(i), append(slices.Clone(add), r.links...), remove)
		if err != nil {
			return fmt.Errorf("cannot note the state of %s: %w", r.dir, err)
		}
		k.Base = base
	}
	return nil
}

// byOwner sorts paths to their repositories, relative to them.
func byOwner(prefixes, paths []string) map[string][]string {
	owned := map[string][]string{}
	for _, path := range paths {
		if p, ok := owner(prefixes, path); ok {
			owned[p] = append(owned[p], within(p, path))
		}
	}
	return owned
}

// within is a path of the workspace as its repository knows it.
func within(prefix, path string) string {
	if prefix == "" {
		return path
	}
	return strings.TrimPrefix(path, prefix+"/")
}

// make begins a repository of banger's own over the objects of the host's.
func (o own) make(ctx context.Context, r *repo) error {
	if err := os.RemoveAll(o.dir); err != nil {
		return fmt.Errorf("cannot begin anew: %w", err)
	}
	g := git{dir: filepath.Dir(o.dir)}
	if _, err := g.run(ctx, "init", "--quiet", "--bare", "--template=", "--object-format="+r.format, o.dir); err != nil {
		return err
	}
	if r.isPartial() {
		for _, s := range [][2]string{{"core.repositoryformatversion", "1"}, {"extensions.partialClone", "origin"}, {"remote.origin.promisor", "true"}, {"remote.origin.url", "/nowhere"}} {
			if _, err := o.git.run(ctx, "config", s[0], s[1]); err != nil {
				return err
			}
		}
	}
	return o.follow(r)
}

// copyIndex copies an index; where there is none, there is nothing to copy.
func copyIndex(to, from string) error {
	if from == "" {
		return nil
	}
	index, err := os.ReadFile(from)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read git's index: %w", err)
	}
	if err := os.WriteFile(to, index, 0o600); err != nil {
		return fmt.Errorf("cannot copy git's index: %w", err)
	}
	return nil
}

// follow keeps what git must know of the host's repository.
func (o own) follow(r *repo) error {
	if err := os.MkdirAll(filepath.Join(o.dir, "info"), 0o700); err != nil {
		return err
	}
	files := map[string]string{"objects/info/alternates": quoteAlternate(filepath.Join(r.common, "objects")) + "\n"}
	exclude, err := r.excludes()
	if err != nil {
		return err
	}
	files["info/exclude"] = exclude
	shallow, err := os.ReadFile(filepath.Join(r.common, "shallow"))
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot read the repository: %w", err)
	}
	if len(shallow) > 0 {
		files["shallow"] = string(shallow)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(o.dir, name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("cannot remember the repository: %w", err)
		}
	}
	return nil
}

// quoteAlternate writes a path as objects/info/alternates takes it.
func quoteAlternate(path string) string {
	if !strings.ContainsAny(path, "\"\n#") {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(path) + `"`
}

// host is the host's git with banger's own index, whose new objects are
// banger's own too: the user's repository is only read.
func (o own) host(r *repo, index string) git {
	return r.git.with("GIT_DIR="+r.gitDir, "GIT_WORK_TREE="+r.dir, "GIT_INDEX_FILE="+index,
		"GIT_OBJECT_DIRECTORY="+filepath.Join(o.dir, "objects"), "GIT_ALTERNATE_OBJECT_DIRECTORIES="+quoteAlternate(filepath.Join(r.common, "objects")))
}

// base gives the commit of the work tree: HEAD itself where nothing differs.
func (o own) base(ctx context.Context, r *repo, index string, changed, removed []string) (string, error) {
	g := o.host(r, index)
	if len(removed) > 0 {
		if _, err := g.feed(ctx, zero(removed), "update-index", "-z", "--force-remove", "--stdin"); err != nil {
			return "", err
		}
	}
	if len(changed) > 0 {
		if _, err := g.feed(ctx, zero(changed), "-c", "core.compression=1", "update-index", "-z", "--add", "--remove", "--replace", "--ignore-skip-worktree-entries", "--stdin"); err != nil {
			return "", err
		}
	}
	args := []string{"write-tree"}
	if r.isPartial() {
		args = append(args, "--missing-ok")
	}
	tree, err := g.line(ctx, args...)
	if err != nil {
		return "", err
	}
	return commit(ctx, g, r.config, tree, []string{r.head}, "The work tree as it went into the guest")
}

// commit makes a commit of a tree, unless its only parent has that tree.
func commit(ctx context.Context, g git, config []setting, tree string, parents []string, message string) (string, error) {
	parents = slices.DeleteFunc(slices.Clone(parents), func(p string) bool { return p == "" })
	if len(parents) == 1 {
		same, err := g.line(ctx, "rev-parse", parents[0]+"^{tree}")
		if err != nil {
			return "", err
		}
		if same == tree {
			return parents[0], nil
		}
	}
	args := []string{"commit-tree", tree, "-m", message}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	name, email := cmp.Or(value(config, "user.name"), "banger"), cmp.Or(value(config, "user.email"), "banger@localhost")
	return g.with("GIT_AUTHOR_NAME="+name, "GIT_AUTHOR_EMAIL="+email, "GIT_COMMITTER_NAME="+name, "GIT_COMMITTER_EMAIL="+email).line(ctx, args...)
}
