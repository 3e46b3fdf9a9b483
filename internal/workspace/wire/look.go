package wire

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Look tells what is at a path, without following it. What is no file,
// directory or link counts as nothing.
func Look(path string) (Stat, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return Stat{Type: Gone}, nil
	}
	if err != nil {
		return Stat{}, fmt.Errorf("cannot look at %s: %w", path, err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return Stat{Type: File, Mode: st.Mode & 0o7777, MTime: st.Mtim.Nano(), Size: st.Size}, nil
	case unix.S_IFDIR:
		return Stat{Type: Dir, Mode: st.Mode & 0o7777}, nil
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return Stat{}, fmt.Errorf("cannot look at %s: %w", path, err)
		}
		return Stat{Type: Link, Target: target}, nil
	}
	return Stat{Type: Gone}, nil
}
