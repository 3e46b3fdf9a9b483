// Package credential reads the files that let coding agents in a guest work in
// their user's name. They are the user's own, one for each agent: no histories,
// no directories.
package credential

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MaxSize is the longest file that is taken for a credential.
const MaxSize = 256 << 10

// File is where a credential is on the host, and where it belongs in a guest.
// Both paths are absolute.
type File struct {
	Host  string
	Guest string
}

// Standard are the credentials that are known without being asked for, of the
// user whose home this is.
func Standard(home string) []File {
	var files []File
	for _, name := range []string{".local/share/opencode/auth.json", ".claude/.credentials.json", ".pi/agent/auth.json"} {
		files = append(files, File{Host: filepath.Join(home, name), Guest: filepath.Join("/root", name)})
	}
	return files
}

// errMissing is a file that is not there, which is nobody's fault.
var errMissing = errors.New("there is no such file")

// IsMissing tells whether Read failed because there is no such file.
func IsMissing(err error) bool { return errors.Is(err, errMissing) }

// Read gives the credential's bytes. A file that everybody may write is
// refused: anybody could have put it there.
func (f File) Read() ([]byte, error) {
	// Not blocking: a pipe in its place must not hold a start up.
	file, err := os.OpenFile(f.Host, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, errMissing
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read it: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("cannot look at it: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("it is not a regular file")
	case info.Mode().Perm()&0o002 != 0:
		return nil, fmt.Errorf("everybody may write it (mode %04o): see what is in it, then run chmod 600 on it", info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read it: %w", err)
	}
	if len(data) > MaxSize {
		return nil, fmt.Errorf("it is longer than %d KiB, which no credential is", MaxSize>>10)
	}
	return data, nil
}
