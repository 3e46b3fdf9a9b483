package agent

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The lines around what banger writes into a file that others own too.
const (
	blockBegin = "# banger begin: written at each start"
	blockEnd   = "# banger end"
)

// putFile makes the file hold data, and leaves it alone when it does. It is
// replaced as a whole, a symbolic link too.
func putFile(path string, data []byte, mode fs.FileMode) error {
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, data) && isPlain(path, mode) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("cannot make the directory of %s: %w", path, err)
	}
	temporary := path + ".banger-new"
	if err := writeMode(temporary, data, mode); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

func isPlain(path string, mode fs.FileMode) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode() == mode
}

func writeMode(path string, data []byte, mode fs.FileMode) error {
	// One that an interrupted call left may have another mode.
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// putBlock makes the file contain lines between banger's own two marks, at its
// end if there are none yet, and leaves the rest of it as it is. No lines take
// the block out. The file's mode stays; a new one gets mode.
func putBlock(path string, lines []string, mode fs.FileMode) error {
	have, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot read %s: %w", path, err)
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	want := withBlock(string(have), lines)
	if want == string(have) {
		return nil
	}
	return putFile(followed(path), []byte(want), mode)
}

// changeFile puts want in the place of have, which is what the file holds. It
// keeps its mode and its group.
func changeFile(path, have, want string) error {
	if want == have {
		return nil
	}
	path = followed(path)
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("cannot change %s: %w", path, err)
	}
	if err := putFile(path, []byte(want), info.Mode().Perm()); err != nil {
		return err
	}
	stat := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(path, int(stat.Uid), int(stat.Gid)); err != nil {
		return fmt.Errorf("cannot change %s: %w", path, err)
	}
	return nil
}

// followed is what a symbolic link at path leads to, or path.
func followed(path string) string {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		return target
	}
	return path
}

// withBlock returns text with lines as its block.
func withBlock(text string, lines []string) string {
	before, after := splitBlock(text)
	if len(lines) == 0 {
		return before + after
	}
	if before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	return before + blockBegin + "\n" + strings.Join(lines, "\n") + "\n" + blockEnd + "\n" + after
}

// splitBlock returns what lies before and after the block in text; a block
// without its last line is none.
func splitBlock(text string) (before, after string) {
	begin := strings.Index("\n"+text, "\n"+blockBegin+"\n")
	if begin < 0 {
		return text, ""
	}
	end := strings.Index(text[begin:], "\n"+blockEnd+"\n")
	if end < 0 {
		return text, ""
	}
	return text[:begin], text[begin+end+len("\n"+blockEnd+"\n"):]
}
