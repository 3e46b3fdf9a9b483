// Package workspace is the guest's half of package internal/workspace: it takes
// a tree of files in, all of it or nothing, tells what has changed in it since,
// and gives back what the host asks for. It needs no program of the image; its
// git, where there is one, packs the commits that were made in the guest.
//
// Nothing here follows a symbolic link of the tree.
package workspace

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// Server serves the workspaces of one guest.
type Server struct {
	// Env is the environment of the guest's git.
	Env func() []string
	// Tooling is called with a workspace's path when mise shall install what
	// the tree names; it does not wait for that.
	Tooling func(path string)

	mu   sync.Mutex
	busy map[string]bool // paths that a put works on
}

// Serve answers one connection until the host ends it.
func (s *Server) Serve(stream io.ReadWriter) {
	conn := wire.NewConn(stream)
	for {
		var ask wire.Ask
		if err := conn.ReadJSON(&ask); err != nil {
			return // the host is done, or speaks something else
		}
		err := s.serve(conn, ask)
		var cut *cutOff
		if errors.As(err, &cut) {
			return // the host sees that the list has no end
		}
		if err != nil {
			// What the host still sends must not keep the answer from it.
			_ = conn.JSON(answerTo(err))
			conn.Drain()
			return
		}
	}
}

func (s *Server) serve(conn *wire.Conn, ask wire.Ask) error {
	if err := checkTarget(ask.Path); err != nil {
		return err
	}
	switch ask.Deed {
	case wire.Put:
		return s.put(conn, ask)
	case wire.Scan:
		return scan(conn, ask.Path)
	case wire.List:
		return list(conn, ask.Path)
	case wire.Get:
		return get(conn, ask.Path)
	case wire.Git:
		return s.git(conn, ask)
	}
	return fmt.Errorf("this agent does not know the deed %q", ask.Deed)
}

// cutOff is an error after the answer: nothing can be said any more.
type cutOff struct{ error }

// afterAnswer marks an error of what follows an answer.
func afterAnswer(err error) error {
	if err == nil {
		return nil
	}
	return &cutOff{err}
}

// refusal is an error of a kind that the host acts on.
type refusal struct {
	kind      wire.Kind
	message   string
	conflicts []string
}

func (r *refusal) Error() string { return r.message }

func answerTo(err error) wire.Answer {
	var r *refusal
	if errors.As(err, &r) {
		return wire.Answer{Error: r.message, Kind: r.kind, Conflicts: r.conflicts}
	}
	return wire.Answer{Error: err.Error()}
}

// checkTarget holds a workspace to a place of its own.
func checkTarget(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || path == "/" || len(path) > wire.MaxPath || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%q is no place for a workspace: it takes an absolute path of the guest", path)
	}
	return nil
}

// same says whether two looks at a name saw the same. A directory is the same
// whatever its mode: git does not know it either.
func same(a, b wire.Stat) bool {
	if a.Type == wire.Dir && b.Type == wire.Dir {
		return true
	}
	return a == b
}
