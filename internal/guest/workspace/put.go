package workspace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// put takes a tree in. Everything is written beside the workspace first and
// moved to its place when it is whole, so that a copy that fails leaves nothing
// and changes nothing.
func (s *Server) put(conn *wire.Conn, ask wire.Ask) error {
	if err := s.lock(ask.Path); err != nil {
		return err
	}
	defer s.unlock(ask.Path)
	parent := filepath.Dir(ask.Path)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("cannot make the directory of the workspace: %w", err)
	}
	if err := checkPlace(ask); err != nil {
		return err
	}
	if err := checkRoom(parent, ask); err != nil {
		return err
	}
	if err := sweep(ask.Path); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(parent, stagingPrefix(ask.Path)+"*")
	if err != nil {
		return fmt.Errorf("cannot make a directory beside the workspace: %w", err)
	}
	defer os.RemoveAll(staging)
	r := &receiver{conn: conn, ask: ask, staging: staging, umask: readUmask()}
	if ask.Update {
		err = r.update()
	} else {
		err = r.whole()
	}
	if err != nil {
		return r.explain(err)
	}
	if ask.Tooling {
		s.Tooling(ask.Path)
	}
	return conn.JSON(wire.Answer{})
}

func (s *Server) lock(path string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy[path] {
		return fmt.Errorf("another copy to %s is under way", path)
	}
	if s.busy == nil {
		s.busy = map[string]bool{}
	}
	s.busy[path] = true
	return nil
}

func (s *Server) unlock(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, path)
}

func stagingPrefix(target string) string { return "." + filepath.Base(target) + ".banger-" }

// sweep removes what copies left that died with their guest.
func sweep(target string) error {
	left, err := filepath.Glob(filepath.Join(escapeGlob(filepath.Dir(target)), escapeGlob(stagingPrefix(target))+"*"))
	if err != nil {
		return fmt.Errorf("cannot look for older copies: %w", err)
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("cannot remove an older copy: %w", err)
		}
	}
	return nil
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// checkPlace refuses to put a tree over something else.
func checkPlace(ask wire.Ask) error {
	have, err := wire.Look(ask.Path)
	if err != nil {
		return err
	}
	if ask.Update {
		if have.Type != wire.Dir {
			return &refusal{kind: wire.Exists, message: fmt.Sprintf("there is no workspace at %s any more", ask.Path)}
		}
		return nil
	}
	if ask.Force || have.Type == wire.Gone {
		return nil
	}
	if names, err := os.ReadDir(ask.Path); have.Type == wire.Dir && err == nil && len(names) == 0 {
		return nil
	}
	return &refusal{kind: wire.Exists, message: fmt.Sprintf("the guest has something at %s already", ask.Path)}
}

// checkRoom refuses what the disk can't hold before it is full.
func checkRoom(dir string, ask wire.Ask) error {
	bytes, inodes, err := room(dir)
	if err != nil {
		return err
	}
	if ask.Bytes > bytes {
		return &refusal{kind: wire.Full, message: fmt.Sprintf("the copy needs %s and the guest's disk has %s free; nothing was copied", size(ask.Bytes), size(bytes))}
	}
	if inodes > 0 && ask.Entries > inodes {
		return &refusal{kind: wire.Full, message: fmt.Sprintf("the copy has %d files and the guest's disk has room for %d; nothing was copied", ask.Entries, inodes)}
	}
	return nil
}

func room(dir string) (bytes, inodes int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("cannot look how much room %s has: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, int64(st.Ffree), nil
}

func size(n int64) string {
	const mib = 1 << 20
	if n < 10*mib {
		return fmt.Sprintf("%d KiB", (n+1023)/1024)
	}
	return fmt.Sprintf("%d MiB", (n+mib-1)/mib)
}

// receiver takes one tree in.
type receiver struct {
	conn    *wire.Conn
	ask     wire.Ask
	staging string
	umask   uint32

	entries, bytes int64 // that came
}

// explain tells of a full disk in numbers. By then the half copy is about to be
// removed, so its own bytes count as free.
func (r *receiver) explain(err error) error {
	if !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.EDQUOT) {
		return err
	}
	free, _, failed := room(filepath.Dir(r.staging))
	if failed != nil {
		return errors.Join(err, failed)
	}
	os.RemoveAll(r.staging)
	after, _, failed := room(filepath.Dir(r.staging))
	if failed != nil {
		after = free
	}
	return &refusal{kind: wire.Full, message: fmt.Sprintf("the guest's disk is full: %d of %d files (%s of %s) fitted; the half copy was removed, and %s are free again",
		max(r.entries-1, 0), r.ask.Entries, size(r.bytes), size(r.ask.Bytes), size(after))}
}

// next reads an entry and counts it.
func (r *receiver) next() (wire.Entry, error) {
	e, err := r.conn.ReadEntry()
	if err != nil {
		return e, err
	}
	if r.entries++; r.entries > r.ask.Entries {
		return e, fmt.Errorf("%w: more entries than it told of", wire.ErrProtocol)
	}
	return e, nil
}

// whole makes a tree where there was none. Links come last: while files are
// written there is none that could be followed.
func (r *receiver) whole() error {
	tree := filepath.Join(r.staging, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	w := newWriters(r.umask)
	links, err := r.fill(tree, w)
	if err = errors.Join(err, w.wait()); err != nil {
		return err
	}
	for _, l := range links {
		if err := os.Symlink(l.Target, filepath.Join(tree, l.Path)); err != nil {
			return fmt.Errorf("cannot make a link: %w", err)
		}
	}
	if err := r.awaitGo(); err != nil {
		return err
	}
	return r.moveIn(tree)
}

// awaitGo says that all has come, and waits until the host remembers it.
func (r *receiver) awaitGo() error {
	if err := r.conn.JSON(wire.Answer{}); err != nil {
		return err
	}
	var g wire.Go
	return r.conn.ReadJSON(&g)
}

func (r *receiver) fill(tree string, w *writers) (links []wire.Entry, err error) {
	made := map[string]bool{"": true}
	mkdir := func(path string, mode uint32) error {
		if made[path] {
			return nil
		}
		made[path] = true
		return makeDir(filepath.Join(tree, path), mode)
	}
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return links, nil
		}
		if err != nil {
			return nil, err
		}
		for _, parent := range missing(made, e.Path) {
			if err := mkdir(parent, 0o755); err != nil {
				return nil, err
			}
		}
		switch e.Type {
		case wire.Dir:
			err = mkdir(e.Path, e.Mode)
		case wire.File:
			err = r.file(w, filepath.Join(tree, e.Path), e.Stat)
		case wire.Link:
			links = append(links, e)
		default:
			err = fmt.Errorf("%w: an entry of type %d in a new tree", wire.ErrProtocol, e.Type)
		}
		if err != nil {
			return nil, err
		}
	}
}

// missing are the parents of a path that were not made yet.
func missing(made map[string]bool, path string) []string {
	if i := strings.LastIndexByte(path, '/'); i < 0 || made[path[:i]] {
		return nil
	}
	return wire.Parents(path)
}

// makeDir makes a directory with exactly this mode.
func makeDir(path string, mode uint32) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("cannot make a directory: %w", err)
	}
	if err := unix.Chmod(path, mode); err != nil {
		return fmt.Errorf("cannot set the mode of %s: %w", path, err)
	}
	return nil
}

// file takes the contents of a file.
func (r *receiver) file(w *writers, path string, s wire.Stat) error {
	if r.bytes += s.Size; r.bytes > r.ask.Bytes {
		return fmt.Errorf("%w: more bytes than it told of", wire.ErrProtocol)
	}
	return w.write(path, s, r.conn.Contents(s.Size))
}

// moveIn puts the tree to its place with one rename.
func (r *receiver) moveIn(tree string) error {
	if r.ask.Force {
		// Where nothing is, there is nothing to move away.
		if err := os.Rename(r.ask.Path, filepath.Join(r.staging, "before")); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("cannot move away what was at %s: %w", r.ask.Path, err)
		}
	}
	if err := os.Rename(tree, r.ask.Path); err != nil {
		return fmt.Errorf("cannot put the workspace to its place: %w", err)
	}
	return nil
}

// change is one thing to do to a workspace that is there.
type change struct {
	wire.Entry
	staged string // the file's contents
}

// update brings changes into a workspace that is there.
func (r *receiver) update() error {
	w := newWriters(r.umask)
	changes, err := r.stage(w)
	if err = errors.Join(err, w.wait()); err != nil {
		return err
	}
	if err := r.awaitGo(); err != nil {
		return err
	}
	if !r.ask.Force {
		if err := r.checkConflicts(changes); err != nil {
			return err
		}
	}
	for _, repo := range r.ask.Repos {
		if err := dropLooseRefs(filepath.Join(r.ask.Path, repo.Prefix, ".git")); err != nil {
			return err
		}
	}
	return r.apply(changes)
}

func (r *receiver) stage(w *writers) ([]change, error) {
	var changes []change
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			return changes, nil
		}
		if err != nil {
			return nil, err
		}
		c := change{Entry: e}
		if e.Type == wire.File {
			c.staged = filepath.Join(r.staging, fmt.Sprint(len(changes)))
			if err := r.file(w, c.staged, e.Stat); err != nil {
				return nil, err
			}
		}
		changes = append(changes, c)
	}
}

// checkConflicts refuses when the guest has changed what would be changed.
func (r *receiver) checkConflicts(changes []change) error {
	conflict := &refusal{kind: wire.Conflict, message: "the guest has changed what would be changed"}
	for _, repo := range r.ask.Repos {
		moved, err := refsMoved(filepath.Join(r.ask.Path, repo.Prefix, ".git"), repo)
		if err != nil {
			return err
		}
		if moved {
			conflict.conflicts = append(conflict.conflicts, filepath.Join(repo.Prefix, ".git"))
		}
	}
	goes := map[string]bool{}
	for _, c := range changes {
		goes[c.Path] = c.Type == wire.Gone
	}
	for _, c := range changes {
		if len(conflict.conflicts) == wire.MaxConflicts {
			break
		}
		touched, err := r.touched(c, goes)
		if err != nil {
			return err
		}
		if touched {
			conflict.conflicts = append(conflict.conflicts, strings.ToValidUTF8(c.Path, "?"))
		}
	}
	if len(conflict.conflicts) > 0 {
		return conflict
	}
	return nil
}

// touched says whether the guest has something else than the host expects, and
// than what it shall have: that is what a copy that died left.
// A directory gives way when all that is in it goes.
func (r *receiver) touched(c change, goes map[string]bool) (bool, error) {
	if c.Was.Type == wire.End {
		return false, nil
	}
	have, err := r.lookBelow(c.Path)
	if err != nil {
		return false, err
	}
	if have.Type == wire.Dir && c.Type != wire.Gone {
		return r.holdsMore(c.Path, goes)
	}
	return !same(have, c.Was) && !same(have, c.Stat), nil
}

// holdsMore says whether a directory has something in it that does not go.
func (r *receiver) holdsMore(dir string, goes map[string]bool) (bool, error) {
	more := false
	err := filepath.WalkDir(filepath.Join(r.ask.Path, dir), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(r.ask.Path, path)
		more = more || !goes[name]
		return err
	})
	return more, err
}

// lookBelow is look for a path of the workspace. Behind a link is nothing.
func (r *receiver) lookBelow(path string) (wire.Stat, error) {
	for _, parent := range wire.Parents(path) {
		s, err := wire.Look(filepath.Join(r.ask.Path, parent))
		if err != nil {
			return s, err
		}
		if s.Type != wire.Dir {
			return wire.Stat{Type: wire.Gone}, nil
		}
	}
	return wire.Look(filepath.Join(r.ask.Path, path))
}

// apply does the changes: first what goes, the deepest first, then what comes.
func (r *receiver) apply(changes []change) error {
	slices.SortStableFunc(changes, func(a, b change) int {
		if goes := a.Type == wire.Gone; goes != (b.Type == wire.Gone) {
			if goes {
				return -1
			}
			return 1
		} else if goes {
			return strings.Compare(b.Path, a.Path)
		}
		return strings.Compare(a.Path, b.Path)
	})
	for _, c := range changes {
		if err := r.one(c); err != nil {
			return fmt.Errorf("cannot change %q in the workspace: %w", c.Path, err)
		}
	}
	return nil
}

func (r *receiver) one(c change) error {
	path := filepath.Join(r.ask.Path, c.Path)
	if c.Type == wire.Gone {
		return r.remove(c.Path)
	}
	if err := r.ensureParents(c.Path); err != nil {
		return err
	}
	have, err := wire.Look(path)
	if err != nil {
		return err
	}
	if have.Type == wire.Dir && c.Type != wire.Dir {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	switch c.Type {
	case wire.File:
		return os.Rename(c.staged, path)
	case wire.Link:
		link := filepath.Join(r.staging, "link")
		if err := os.Symlink(c.Target, link); err != nil {
			return err
		}
		return os.Rename(link, path)
	case wire.Dir:
		if have.Type == wire.Dir {
			return unix.Chmod(path, c.Mode)
		}
		if have.Type != wire.Gone {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
		return makeDir(path, c.Mode)
	}
	return fmt.Errorf("%w: an entry of type %d", wire.ErrProtocol, c.Type)
}

// remove removes a name, and the directories that are empty without it.
func (r *receiver) remove(path string) error {
	have, err := r.lookBelow(path)
	if err != nil || have.Type == wire.Gone {
		return err
	}
	err = os.Remove(filepath.Join(r.ask.Path, path))
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return nil // what else is in it is the guest's
	}
	if err != nil {
		return err
	}
	for _, parent := range slices.Backward(wire.Parents(path)) {
		if os.Remove(filepath.Join(r.ask.Path, parent)) != nil {
			return nil
		}
	}
	return nil
}

// ensureParents makes the directories above a path. What is in their way was
// found to be no work of the guest's, or was forced.
func (r *receiver) ensureParents(path string) error {
	for _, parent := range wire.Parents(path) {
		dir := filepath.Join(r.ask.Path, parent)
		have, err := wire.Look(dir)
		if err != nil {
			return err
		}
		if have.Type == wire.Dir {
			continue
		}
		if have.Type != wire.Gone {
			if err := os.Remove(dir); err != nil {
				return err
			}
		}
		if err := makeDir(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}
