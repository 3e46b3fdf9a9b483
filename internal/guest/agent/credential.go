package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// setCredential keeps a credential in memory and puts a link to it where it
// belongs, or takes both away. No symbolic link of the guest is followed.
func (a *Agent) setCredential(c proto.Credential) error {
	if !filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path || c.Path == "/" || strings.ContainsRune(c.Path, 0) {
		return badRequest("%q is no place for a credential", c.Path)
	}
	a.configuring.Lock()
	defer a.configuring.Unlock()
	if len(c.Data) == 0 {
		return errors.Join(a.unlinkCredential(c.Path), removeFile(a.path(keptAt(c.Path))))
	}
	if err := a.keepCredential(keptAt(c.Path), c.Data); err != nil {
		return err
	}
	return a.linkCredential(c.Path)
}

// keptAt is where the credential for path is in memory.
func keptAt(path string) string {
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(proto.CredentialDir, hex.EncodeToString(sum[:8]))
}

func (a *Agent) keepCredential(name string, data []byte) error {
	dir := a.path(proto.CredentialDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, err)
	}
	if err := a.kernel.InMemory(dir); err != nil {
		return err
	}
	return putFile(a.path(name), data, 0o600)
}

// linkCredential replaces whatever file is at path by the link, in one step.
func (a *Agent) linkCredential(path string) error {
	dir, err := a.openDirs(filepath.Dir(path), true)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if below(path, a.rootUser().home) {
		if err := unix.Fchmod(dir, 0o700); err != nil {
			return fmt.Errorf("cannot close %s to others: %w", filepath.Dir(path), err)
		}
	}
	base, temporary := filepath.Base(path), "."+filepath.Base(path)+".banger-new"
	if err := unix.Unlinkat(dir, temporary, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("cannot remove an old %s: %w", temporary, err)
	}
	if err := unix.Symlinkat(keptAt(path), dir, temporary); err != nil {
		return fmt.Errorf("cannot make %s: %w", path, err)
	}
	if err := unix.Renameat(dir, temporary, dir, base); err != nil {
		_ = unix.Unlinkat(dir, temporary, 0)
		return fmt.Errorf("cannot make %s: %w", path, err)
	}
	return nil
}

// below tells whether the directory of path is within home and not home itself.
func below(path, home string) bool {
	return strings.HasPrefix(filepath.Dir(path), strings.TrimSuffix(home, "/")+"/")
}

// unlinkCredential takes the link at path away, and nothing else that is there.
func (a *Agent) unlinkCredential(path string) error {
	dir, err := a.openDirs(filepath.Dir(path), false)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, filepath.Base(path), target)
	if err != nil || string(target[:n]) != keptAt(path) {
		return nil // there is none of ours
	}
	if err := unix.Unlinkat(dir, filepath.Base(path), 0); err != nil {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// openDirs opens a directory of the guest by walking down to it, and makes what
// is missing, for root alone.
func (a *Agent) openDirs(dir string, create bool) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	at, err := unix.Open(a.root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open the root directory: %w", err)
	}
	for _, name := range strings.Split(strings.Trim(dir, "/"), "/") {
		if name == "" {
			continue
		}
		next, err := unix.Openat(at, name, flags, 0)
		if errors.Is(err, unix.ENOENT) && create {
			if err = unix.Mkdirat(at, name, 0o700); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(at, name, flags, 0)
			}
		}
		unix.Close(at)
		if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return -1, fmt.Errorf("%q in %s is no directory, and a symbolic link is not followed", name, dir)
		}
		if err != nil {
			return -1, fmt.Errorf("cannot open %q in %s: %w", name, dir, err)
		}
		at = next
	}
	return at, nil
}
