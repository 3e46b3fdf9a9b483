package kernel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/atomicfile"
	"github.com/banger-vm/banger/internal/kernel/initramfs"
)

const (
	initramfsLink   = "initramfs"
	initramfsPrefix = "initramfs-"

	// initramfsLife is how long an initramfs that nobody asks for is kept: a VMM
	// of another version of banger may be about to read it.
	initramfsLife = 24 * time.Hour
)

// ensureInitramfs gives the path of the initramfs of this kernel's modules and
// the present guest programs. Its name holds the hash of its content, so bangers
// of several versions don't disturb each other.
//
// What was made of the same files before is not made again to be compared: that
// would be a tenth of a VM's start where processors are slow.
func (s *Store) ensureInitramfs(rec record) (string, error) {
	sources := s.contents(rec)
	state, err := stateOf(sources)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	state = rec.Name + "\n" + state
	made := s.made[state]
	if info, err := os.Stat(made.path); err == nil && info.Size() == made.size {
		now := time.Now()
		_ = os.Chtimes(made.path, now, now) // it only keeps the file from being cleaned up
		return made.path, nil
	}
	made, err = s.makeInitramfs(rec, sources)
	if err != nil {
		return "", err
	}
	if s.made == nil {
		s.made = map[string]madeInitramfs{}
	}
	s.made[state] = made
	return made.path, nil
}

// madeInitramfs is an initramfs in the store.
type madeInitramfs struct {
	path string
	size int64
}

// stateOf changes when any of the files of an initramfs does.
func stateOf(c initramfs.Contents) (string, error) {
	paths := []string{c.Init, c.Agent}
	for _, m := range c.Modules {
		paths = append(paths, m.Path)
	}
	var state strings.Builder
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", fmt.Errorf("cannot make an initramfs: %w", err)
		}
		fmt.Fprintln(&state, path, info.Size(), info.ModTime().UnixNano())
	}
	return state.String(), nil
}

func (s *Store) makeInitramfs(rec record, sources initramfs.Contents) (madeInitramfs, error) {
	var content bytes.Buffer
	if err := initramfs.Write(&content, sources); err != nil {
		return madeInitramfs{}, err
	}
	sum := sha256.Sum256(content.Bytes())
	dir := filepath.Join(s.Dir, rec.Name)
	path := filepath.Join(dir, initramfsPrefix+hex.EncodeToString(sum[:8]))
	made := madeInitramfs{path, int64(content.Len())}
	now := time.Now()
	if info, err := os.Stat(path); err == nil && info.Size() == made.size {
		_ = os.Chtimes(path, now, now) // it only keeps the file from being cleaned up
		return made, nil
	}
	if err := atomicfile.Write(path, content.Bytes(), 0o644); err != nil {
		return madeInitramfs{}, err
	}
	if err := relink(filepath.Base(path), filepath.Join(dir, initramfsLink)); err != nil {
		return madeInitramfs{}, err
	}
	removeOldInitramfs(dir, now)
	return made, nil
}

func (s *Store) contents(rec record) initramfs.Contents {
	c := initramfs.Contents{Init: s.Init, Agent: s.Agent}
	for _, m := range rec.Early {
		c.Modules = append(c.Modules, initramfs.Module{
			Path: filepath.Join(s.Dir, rec.Name, earlyDir, m.File),
			Name: m.File,
			Deps: m.Deps,
		})
	}
	return c
}

// relink makes link lead to target, atomically.
func relink(target, link string) error {
	temp := fmt.Sprintf("%s.%d", link, os.Getpid())
	if err := errors.Join(removeIfThere(temp), os.Symlink(target, temp), os.Rename(temp, link)); err != nil {
		return fmt.Errorf("cannot link the initramfs: %w", err)
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// removeOldInitramfs removes what nobody has asked for in a while. A file that
// can't be removed only costs space.
func removeOldInitramfs(dir string, now time.Time) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && strings.HasPrefix(entry.Name(), initramfsPrefix) && now.Sub(info.ModTime()) > initramfsLife {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}
