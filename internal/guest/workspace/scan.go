package workspace

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// gitDir is left out of every scan: what is in it comes by git.
const gitDir = ".git"

// known is what the host says that a workspace has.
type known struct {
	stats map[string]wire.Stat
	dirs  map[string]bool
	seen  map[string]bool
}

func readKnown(conn *wire.Conn) (*known, error) {
	k := &known{stats: map[string]wire.Stat{}, dirs: map[string]bool{"": true}, seen: map[string]bool{}}
	for {
		e, err := conn.ReadEntry()
		if errors.Is(err, io.EOF) {
			return k, nil
		}
		if err != nil {
			return nil, err
		}
		if len(k.stats) == wire.MaxEntries {
			return nil, fmt.Errorf("a workspace can have %d files at most", wire.MaxEntries)
		}
		k.stats[e.Path] = e.Stat
		for dir := path.Dir(e.Path); dir != "." && !k.dirs[dir]; dir = path.Dir(dir) {
			k.dirs[dir] = true
		}
		if e.Type == wire.Dir {
			k.dirs[e.Path] = true
		}
	}
}

// scan tells what has changed: files and links that are new or others, names
// that are gone, and directories that the host does not know, without what is
// in them: most are ignored, and may hold as much as they like.
func scan(conn *wire.Conn, root string) error {
	k, err := readKnown(conn)
	if err != nil {
		return err
	}
	have, err := wire.Look(root)
	if err != nil {
		return err
	}
	if have.Type != wire.Dir {
		return conn.JSON(wire.Answer{Missing: true})
	}
	if err := conn.JSON(wire.Answer{}); err != nil {
		return err
	}
	return afterAnswer(k.tell(conn, root))
}

func (k *known) tell(conn *wire.Conn, root string) error {
	if err := k.walk(conn, root, ""); err != nil {
		return err
	}
	for name, was := range k.stats {
		if !k.seen[name] && was.Type != wire.Dir {
			if err := conn.Entry(wire.Entry{Path: name, Stat: wire.Stat{Type: wire.Gone}}); err != nil {
				return err
			}
		}
	}
	return conn.End()
}

func (k *known) walk(conn *wire.Conn, root, dir string) error {
	return each(root, dir, func(name string, have wire.Stat) error {
		k.seen[name] = true
		if have.Type == wire.Dir && k.dirs[name] {
			return k.walk(conn, root, name)
		}
		if was, ok := k.stats[name]; ok && same(have, was) {
			return nil
		}
		return conn.Entry(wire.Entry{Path: name, Stat: have})
	})
}

// each calls f for every name in a directory of the tree but git's own. One
// that vanishes meanwhile is left out.
func each(root, dir string, f func(name string, have wire.Stat) error) error {
	entries, err := os.ReadDir(filepath.Join(root, dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read a directory: %w", err)
	}
	for _, e := range entries {
		if e.Name() == gitDir {
			continue
		}
		have, err := wire.Look(filepath.Join(root, dir, e.Name()))
		if err != nil {
			return err
		}
		if have.Type == wire.Gone {
			continue
		}
		if err := f(path.Join(dir, e.Name()), have); err != nil {
			return err
		}
	}
	return nil
}

// list tells what is in directories, one level deep.
func list(conn *wire.Conn, root string) error {
	names, err := readPaths(conn)
	if err != nil {
		return err
	}
	if err := conn.JSON(wire.Answer{}); err != nil {
		return err
	}
	for _, dir := range names {
		err := each(root, dir, func(name string, have wire.Stat) error {
			return conn.Entry(wire.Entry{Path: name, Stat: have})
		})
		if err != nil {
			return afterAnswer(err)
		}
	}
	return afterAnswer(conn.End())
}

func readPaths(conn *wire.Conn) ([]string, error) {
	names, err := conn.ReadNames()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := wire.CheckPath(name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// get sends files and links as they are now.
func get(conn *wire.Conn, root string) error {
	names, err := readPaths(conn)
	if err != nil {
		return err
	}
	if err := conn.JSON(wire.Answer{}); err != nil {
		return err
	}
	for _, name := range names {
		if err := send(conn, root, name); err != nil {
			return afterAnswer(err)
		}
	}
	return afterAnswer(conn.Flush())
}

func send(conn *wire.Conn, root, name string) error {
	full := filepath.Join(root, name)
	have, err := wire.Look(full)
	if err != nil {
		return err
	}
	if have.Type != wire.File {
		return conn.Entry(wire.Entry{Path: name, Stat: have})
	}
	fd, err := unix.Open(full, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return conn.Entry(wire.Entry{Path: name, Stat: wire.Stat{Type: wire.Gone}})
	}
	file := os.NewFile(uintptr(fd), full)
	defer file.Close()
	if err := conn.Entry(wire.Entry{Path: name, Stat: have}); err != nil {
		return err
	}
	// The length is told: what is cut off meanwhile is made up for.
	_, err = io.CopyN(conn, io.MultiReader(file, zeros{}), have.Size)
	return err
}

// zeros is /dev/zero.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
