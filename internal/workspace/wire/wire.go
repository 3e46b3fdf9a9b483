// Package wire is what a host and the guest's agent say to each other about a
// tree of files: package workspace is the host's half, package guest/workspace
// the guest's.
//
// A connection begins with one [Ask] of the host. What follows depends on it:
//
//	put     host: entries with contents, End; guest: Answer, it has all;
//	        host: Go; guest: Answer
//	scan    host: entries without contents, End; guest: Answer, then entries
//	        without contents, End
//	list    host: Names; guest: Answer, then entries without contents, End
//	get     host: Names; guest: Answer, then for each name in turn an entry
//	        with its contents, or Gone
//	git     host: Names, object ids that it has; guest: Answer with Git, then
//	        a pack as chunks
//
// After scan, list, get and git the connection may carry a further Ask. A guest
// that gives up during a put answers early, and then swallows what is still
// sent until the host has closed.
//
// Numbers are big-endian. Each end holds the other to the bounds of this
// package: paths are relative and clean, lengths have a limit, and nothing is
// allocated on the word of the other end alone.
package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

const (
	// MaxPath is Linux's own limit of a path, in bytes.
	MaxPath = 4095
	// MaxName is Linux's own limit of each part of a path, in bytes.
	MaxName = 255
	// MaxJSON bounds an Ask and an Answer.
	MaxJSON = 1 << 20
	// MaxEntries bounds how many entries one list may have.
	MaxEntries = 4 << 20
	// MaxChunk is the largest chunk of a pack.
	MaxChunk = 256 << 10
	// buffer is how much is gathered before it is sent.
	buffer = 256 << 10
)

// ErrProtocol says that the other end does not keep to the protocol.
var ErrProtocol = errors.New("the other end does not keep to the protocol of workspaces")

// Deed is what a host asks for.
type Deed string

// The deeds.
const (
	Put  Deed = "put"
	Scan Deed = "scan"
	List Deed = "list"
	Get  Deed = "get"
	Git  Deed = "git"
)

// Ask begins a connection, or goes on with one.
type Ask struct {
	Deed Deed   `json:"deed"`
	Path string `json:"path"` // absolute, in the guest

	// Of a put:
	Update  bool  `json:"update,omitempty"`  // into what an earlier put made
	Force   bool  `json:"force,omitempty"`   // over what has changed in the guest since
	Entries int64 `json:"entries,omitempty"` // how many will come
	Bytes   int64 `json:"bytes,omitempty"`   // how long their contents are together
	Tooling bool  `json:"tooling,omitempty"` // let mise install the tools that the tree names
	// Repos are the repositories whose refs change: a guest that has moved its
	// own refuses.
	Repos []Repo `json:"repos,omitempty"`

	// Of git: the repository within the workspace, "" for its top.
	Repo string `json:"repo,omitempty"`
}

// Repo is a repository of the workspace whose refs a put replaces.
type Repo struct {
	Prefix string   `json:"prefix"`          // where in the workspace; "" is its top
	Heads  []string `json:"heads,omitempty"` // what .git/HEAD may hold
	Refs   []Ref    `json:"refs,omitempty"`  // of the guest's own, those that the host has got
}

// Go ends a put. The guest has answered that it has all; only now it puts the
// workspace to its place, and answers again.
type Go struct{}

// Answer is the guest's.
type Answer struct {
	Error     string   `json:"error,omitempty"`
	Kind      Kind     `json:"kind,omitempty"`
	Conflicts []string `json:"conflicts,omitempty"` // paths that changed in the guest, some of them
	Missing   bool     `json:"missing,omitempty"`   // there is nothing at the path
	Git       *Heads   `json:"git,omitempty"`
}

// Kind sorts a guest's errors.
type Kind string

// The kinds of errors. The zero Kind is any other.
const (
	Conflict Kind = "conflict" // the guest's own work is in the way
	Full     Kind = "full"     // its disk is full
	Exists   Kind = "exists"   // something else is at the path
)

// MaxConflicts is how many paths an Answer names.
const MaxConflicts = 20

// Heads is how a repository in the guest stands.
type Heads struct {
	HasGit bool   `json:"has_git"` // the guest has a git that could be asked
	Head   string `json:"head,omitempty"`
	Branch string `json:"branch,omitempty"` // refs/heads/…; "" is a detached HEAD
	Refs   []Ref  `json:"refs,omitempty"`   // branches and the stash
	Note   string `json:"note,omitempty"`   // why git could not be asked
}

// Ref is one ref and the object it names, in hexadecimal.
type Ref struct {
	Name string `json:"name"`
	OID  string `json:"oid"`
}

// Type is what an entry is.
type Type byte

// The types. Gone is a name with nothing there (any more).
const (
	End  Type = 0
	File Type = 'f'
	Dir  Type = 'd'
	Link Type = 'l'
	Gone Type = 'x'
)

// Stat is what is compared to see whether an entry has changed.
type Stat struct {
	Type  Type
	Mode  uint32 // permission bits, 07777
	MTime int64  // nanoseconds since 1970; 0 for directories and links
	Size  int64  // of a file's contents
	// Target is where a link points.
	Target string
}

// Entry is one name of a tree.
type Entry struct {
	Path string // relative to the tree, with slashes
	Stat
	// Was is what the other end is expected to have; its Type is Gone where
	// nothing is, and End where that does not matter.
	Was Stat
}

// CheckPath holds a path to what an entry may have: relative, of parts that
// name something, within the limits of Linux.
func CheckPath(path string) error {
	if path == "" || len(path) > MaxPath || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%w: a path of %d bytes", ErrProtocol, len(path))
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." || len(part) > MaxName {
			return fmt.Errorf("%w: the path %q", ErrProtocol, path)
		}
	}
	return nil
}

// Conn speaks over a connection. One goroutine may read while another writes.
type Conn struct {
	r *bufio.Reader
	w *bufio.Writer
}

// NewConn speaks over c.
func NewConn(c io.ReadWriter) *Conn {
	return &Conn{r: bufio.NewReaderSize(c, buffer), w: bufio.NewWriterSize(c, buffer)}
}

// Flush sends what was gathered.
func (c *Conn) Flush() error { return c.w.Flush() }

// JSON sends an Ask or an Answer, at once.
func (c *Conn) JSON(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode a message: %w", err)
	}
	if len(data) > MaxJSON {
		return fmt.Errorf("cannot send a message of %d bytes: at most %d are taken", len(data), MaxJSON)
	}
	if err := c.uint32(uint32(len(data))); err != nil {
		return err
	}
	if _, err := c.w.Write(data); err != nil {
		return err
	}
	return c.w.Flush()
}

// ReadJSON reads what JSON sent. io.EOF is an end between messages.
func (c *Conn) ReadJSON(v any) error {
	n, err := c.readUint32()
	if err != nil {
		return err
	}
	if n > MaxJSON {
		return fmt.Errorf("%w: a message of %d bytes", ErrProtocol, n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(c.r, data); err != nil {
		return noEOF(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	return nil
}

// Entry sends an entry. A file's contents, exactly as many bytes as its size,
// follow with Write where the protocol has them.
func (c *Conn) Entry(e Entry) error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	buf := make([]byte, 0, 128+len(e.Path))
	buf = appendStat(buf, e.Stat)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(e.Path)))
	buf = append(buf, e.Path...)
	buf = appendStat(buf, e.Was)
	_, err := c.w.Write(buf)
	return err
}

func appendStat(buf []byte, s Stat) []byte {
	buf = append(buf, byte(s.Type))
	switch s.Type {
	case File:
		buf = binary.BigEndian.AppendUint32(buf, s.Mode)
		buf = binary.BigEndian.AppendUint64(buf, uint64(s.MTime))
		buf = binary.BigEndian.AppendUint64(buf, uint64(s.Size))
	case Dir:
		buf = binary.BigEndian.AppendUint32(buf, s.Mode)
	case Link:
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(s.Target)))
		buf = append(buf, s.Target...)
	}
	return buf
}

// Write sends bytes of a file.
func (c *Conn) Write(p []byte) (int, error) { return c.w.Write(p) }

// End sends the end of a list.
func (c *Conn) End() error {
	if err := c.w.WriteByte(byte(End)); err != nil {
		return err
	}
	return c.w.Flush()
}

// ReadEntry reads an entry; io.EOF is the end of the list.
func (c *Conn) ReadEntry() (Entry, error) {
	var e Entry
	first, err := c.r.ReadByte()
	if err != nil {
		return e, noEOF(err)
	}
	if Type(first) == End {
		return e, io.EOF
	}
	if e.Stat, err = c.readStat(Type(first)); err != nil {
		return e, err
	}
	if e.Path, err = c.readString(MaxPath); err != nil {
		return e, err
	}
	if err := CheckPath(e.Path); err != nil {
		return e, err
	}
	was, err := c.r.ReadByte()
	if err != nil {
		return e, noEOF(err)
	}
	if Type(was) != End {
		e.Was, err = c.readStat(Type(was))
	}
	return e, err
}

func (c *Conn) readStat(t Type) (Stat, error) {
	s := Stat{Type: t}
	var err error
	switch t {
	case File:
		var head [20]byte
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return s, noEOF(err)
		}
		s.Mode = binary.BigEndian.Uint32(head[:])
		s.MTime = int64(binary.BigEndian.Uint64(head[4:]))
		s.Size = int64(binary.BigEndian.Uint64(head[12:]))
		if s.Size < 0 {
			err = fmt.Errorf("%w: a file of %d bytes", ErrProtocol, s.Size)
		}
	case Dir:
		s.Mode, err = c.readUint32()
		err = noEOF(err)
	case Link:
		s.Target, err = c.readString(MaxPath)
		if err == nil && (s.Target == "" || strings.ContainsRune(s.Target, 0)) {
			err = fmt.Errorf("%w: a link to %q", ErrProtocol, s.Target)
		}
	case Gone:
	default:
		err = fmt.Errorf("%w: an entry of type %d", ErrProtocol, t)
	}
	if err == nil && s.Mode > 0o7777 {
		err = fmt.Errorf("%w: the mode %o", ErrProtocol, s.Mode)
	}
	return s, err
}

func (c *Conn) readString(max int) (string, error) {
	var head [2]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return "", noEOF(err)
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > max {
		return "", fmt.Errorf("%w: a name of %d bytes", ErrProtocol, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(c.r, text); err != nil {
		return "", noEOF(err)
	}
	return string(text), nil
}

// Contents are the next n bytes: all of them must be read before anything else.
func (c *Conn) Contents(n int64) io.Reader { return &contents{c.r, n} }

// contents is io.LimitReader that knows an early end.
type contents struct {
	r    *bufio.Reader
	left int64
}

func (c *contents) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	return n, noEOF(err)
}

// Names sends a list of names: paths, or object ids.
func (c *Conn) Names(names []string) error {
	for _, name := range names {
		if name == "" || len(name) > MaxPath {
			return fmt.Errorf("cannot send a name of %d bytes", len(name))
		}
		if err := c.w.WriteByte(1); err != nil {
			return err
		}
		if _, err := c.w.Write(binary.BigEndian.AppendUint16(nil, uint16(len(name)))); err != nil {
			return err
		}
		if _, err := c.w.WriteString(name); err != nil {
			return err
		}
	}
	return c.End()
}

// ReadNames reads what Names sent.
func (c *Conn) ReadNames() ([]string, error) {
	var names []string
	for {
		more, err := c.r.ReadByte()
		if err != nil {
			return nil, noEOF(err)
		}
		if more == 0 {
			return names, nil
		}
		if more != 1 || len(names) == MaxEntries {
			return nil, fmt.Errorf("%w: a list without end", ErrProtocol)
		}
		name, err := c.readString(MaxPath)
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
}

// Chunks sends all of src, of whatever length.
func (c *Conn) Chunks(src io.Reader) error {
	buf := make([]byte, MaxChunk)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if err := c.uint32(uint32(n)); err != nil {
				return err
			}
			if _, err := c.w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			if err := c.uint32(0); err != nil {
				return err
			}
			return c.w.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// ReadChunks reads what Chunks sends.
func (c *Conn) ReadChunks() io.Reader { return &chunks{c: c} }

type chunks struct {
	c    *Conn
	left int
	over bool
}

func (r *chunks) Read(p []byte) (int, error) {
	if r.over {
		return 0, io.EOF
	}
	if r.left == 0 {
		n, err := r.c.readUint32()
		if err != nil {
			return 0, noEOF(err)
		}
		if n > MaxChunk {
			return 0, fmt.Errorf("%w: a chunk of %d bytes", ErrProtocol, n)
		}
		if n == 0 {
			r.over = true
			return 0, io.EOF
		}
		r.left = int(n)
	}
	n, err := r.c.r.Read(p[:min(len(p), r.left)])
	r.left -= n
	return n, noEOF(err)
}

// Drain reads and throws away until the connection ends.
func (c *Conn) Drain() { _, _ = io.Copy(io.Discard, c.r) }

func (c *Conn) uint32(n uint32) error {
	_, err := c.w.Write(binary.BigEndian.AppendUint32(nil, n))
	return err
}

func (c *Conn) readUint32() (uint32, error) {
	var head [4]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(head[:]), nil
}

// noEOF makes an end within a message what it is.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Parents are the directories above a path, the outermost first.
func Parents(path string) []string {
	var parents []string
	for i := range len(path) {
		if path[i] == '/' {
			parents = append(parents, path[:i])
		}
	}
	return slices.Clip(parents)
}
