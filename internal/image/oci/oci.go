// Package oci gets container images and lays their layers down, one over the
// other, in a filesystem.
//
// The formats are those of the OCI image specification (image layout, index,
// manifest, configuration, layers) and Docker's media types for the same; the
// protocol is that of the OCI distribution specification. An image comes from
// a registry ([Registry]) or from an archive file ([OpenArchive]). Its layers
// are kept by digest in a [Cache], and [Image.Unpack] streams them into a
// [Filesystem], bottom-up: nothing is unpacked into a directory, nothing is
// mounted, and no right is needed but to write the result.
//
// Everything in an image is somebody else's: sizes, counts, names and links
// are bounded and checked before they are used.
package oci

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/banger-vm/banger/api"
)

// The steps of getting an image, as progress and AtStep name them, in their
// order. The first layers are unpacked while the last ones are on their way.
const (
	StepResolve  = "looking the image up"
	StepDownload = "downloading layers"
	StepUnpack   = "unpacking layers"
)

// Attr is what a file has beside its content and its name.
type Attr struct {
	Mode         uint32 // as st_mode: type, set-id bits and permissions
	UID, GID     uint32
	Mtime        time.Time
	Major, Minor uint32            // of a device
	Xattrs       map[string][]byte // by full name, "security.capability"
}

// Filesystem is what an image is laid down in. Paths are relative to its root,
// "" is the root itself; no part of a path but the last is ever a symbolic
// link, and the parents of what is made are there. Nothing exists at the path
// of what is made, except for Mkdir, which sets an existing directory's
// attributes.
type Filesystem interface {
	Mkdir(path string, a Attr) error
	// File makes a regular file of size bytes, all of which content gives.
	File(path string, a Attr, content io.Reader, size int64) error
	Symlink(path, target string, a Attr) error
	// Node makes a device or a named pipe.
	Node(path string, a Attr) error
	// Link gives what is at old, no directory, another name.
	Link(old, path string) error
	// Remove takes a name away, a directory's with all that is in it.
	Remove(path string) error
}

// DefaultLimit is how many bytes the layers of an image may unpack to unless it
// is told otherwise, and how many the files in them may have.
const DefaultLimit int64 = 32 << 30

// bytesPerEntry is how many bytes of the limit an entry of a layer takes at
// least: what a layer holds is kept track of in memory.
const bytesPerEntry = 16 << 10

// EntryLimit is how many entries the layers of an image may have that may
// unpack to limit bytes.
func EntryLimit(limit int64) int64 { return limit / bytesPerEntry }

// Config is what an image says of the command that it is for.
type Config struct {
	Env        []string
	WorkingDir string
	User       string
	Entrypoint []string
	Cmd        []string
}

// ErrBadImage is in every error that says that an image breaks its format's
// rules.
var ErrBadImage = errors.New("bad image")

// badImage is for an image that can't be laid down as it is.
func badImage(format string, args ...any) error {
	return &imageError{&api.Error{Kind: api.KindUntrusted, Message: fmt.Sprintf(format, args...),
		Hint: "the image is broken or hostile; nothing of it was kept"}}
}

// imageError is an [api.Error] that is [ErrBadImage].
type imageError struct{ told *api.Error }

func (e *imageError) Error() string   { return e.told.Message }
func (e *imageError) Unwrap() []error { return []error{e.told, ErrBadImage} }
