// Package filetree carries a tree of files over the guest link, either way. The
// sender begins each thing with an Entry frame: a directory's own things follow
// until its EntryEnd, a file's bytes and holes until its. Names are single
// components and never paths, so there is no way to write "..". Links are
// carried as links; neither end ever follows one.
//
// Of a file of ResumeSize or more the receiver first says where to begin: a
// connection that is lost on the way leaves the part that has come, and the
// next copy of the same file goes on there.
//
// A sender ends with TreeEnd, a receiver with TreeTaken, as soon as it fails or
// after the TreeEnd. What a receiver writes is bounded by the room on its disk,
// and what it holds in memory by one frame.
package filetree

import (
	"errors"
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/guest/proto"
)

const (
	// ResumeSize is the least size of a file that is worth to be gone on with.
	ResumeSize = 8 << 20
	// MaxDepth is how deep directories may be within each other.
	MaxDepth = 250
	// MaxEntries is how many things may be in one tree.
	MaxEntries = 20_000_000
	// MaxNotes is how many of the things that are left out are told one by one.
	MaxNotes = 100
	// maxFile is the largest file that Linux has.
	maxFile = 1<<63 - 1
	// maxName and maxTarget are NAME_MAX and PATH_MAX of Linux.
	maxName   = 255
	maxTarget = 4096
)

// Progress is how far a copy is.
type Progress struct {
	Path  string // of the file that is under way, within the tree
	Done  int64  // of its bytes, holes included
	Size  int64  // its size, -1 when that is not known
	Files int64  // before it
	Bytes int64  // of all of them, holes not included
}

// Summary is what came of a copy.
type Summary struct {
	Files int64 // files and links
	Bytes int64 // that travelled, holes not included
	Notes []proto.Note
	// Unnoted counts further things that were left out.
	Unnoted int64
}

func (s *Summary) note(n proto.Note) {
	if len(s.Notes) < MaxNotes {
		s.Notes = append(s.Notes, n)
		return
	}
	s.Unnoted++
}

// checkEntry refuses what no honest sender says.
func checkEntry(e proto.Entry, top bool) error {
	name := string(e.Name)
	switch {
	case !top && (name == "" || name == "." || name == ".." || len(name) > maxName || strings.ContainsAny(name, "/\x00") || isPart(name)):
		return fmt.Errorf("%w: a file called %q", proto.ErrFrame, proto.Clean(name, proto.MaxText))
	case e.Kind != proto.EntryFile && e.Kind != proto.EntryDir && e.Kind != proto.EntryLink:
		return fmt.Errorf("%w: a thing that is neither file nor directory nor link", proto.ErrFrame)
	case e.Kind == proto.EntryLink && (len(e.Target) == 0 || len(e.Target) > maxTarget || strings.ContainsRune(string(e.Target), 0)):
		return fmt.Errorf("%w: a link that leads nowhere", proto.ErrFrame)
	case e.Kind == proto.EntryFile && e.Size < -1:
		return fmt.Errorf("%w: a file of %d bytes", proto.ErrFrame, e.Size)
	}
	return nil
}

// decodeReply reads the last word of the other end.
func decodeReply(payload []byte) error {
	var reply proto.Reply
	if err := proto.Decode(payload, &reply); err != nil {
		return err
	}
	if reply.Error == nil {
		return nil
	}
	return &proto.Error{Kind: proto.ErrorFailed, Message: proto.Clean(reply.Error.Message, proto.MaxText)}
}

// lastWord is the reply that tells of err.
func lastWord(err error) proto.Reply {
	if err == nil {
		return proto.Reply{}
	}
	text := err.Error()
	if len(text) > proto.MaxText {
		text = text[:proto.MaxText]
	}
	return proto.Reply{Error: &proto.Error{Kind: proto.ErrorFailed, Message: text}}
}

// ErrLost says that the connection ended before the copy did.
var ErrLost = errors.New("the connection was lost before all was copied")
