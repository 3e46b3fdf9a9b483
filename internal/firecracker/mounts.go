package firecracker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// deviceDir is the name in Dir under which the VMM's device nodes are made.
const deviceDir = "dev"

// arrangeMounts gives this thread a mount namespace of its own, in which the
// Binds and the Devices are in place. It vanishes with the VMM.
func (s Spawn) arrangeMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("cannot make a mount namespace (root is needed): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make the mounts private: %w", err)
	}
	// Opened here, not before: a directory belongs to the namespace in which
	// it was opened.
	dir, err := os.Open(s.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, b := range s.Binds {
		if err := b.mount(dir); err != nil {
			return fmt.Errorf("cannot show the VMM %s as %s: %w", b.Source, b.Name, err)
		}
	}
	return s.mountDevices(dir)
}

func (b Bind) mount(dir *os.File) error {
	if b.Name != filepath.Base(b.Name) {
		return errors.New("the name is not that of a file in its directory")
	}
	source, err := openPath(b.Source)
	if err != nil {
		return err
	}
	defer source.Close()
	placeholder, err := openPlaceholder(dir, b.Name)
	if err != nil {
		return err
	}
	defer placeholder.Close()
	if err := bind(source, placeholder); err != nil {
		return err
	}
	if !b.ReadOnly {
		return nil
	}
	return remountReadOnly(dir, b.Name)
}

// openPlaceholder opens the empty file over which a bind goes. The VMM can
// write to Dir, so what it may have put there instead is not followed.
func openPlaceholder(dir *os.File, name string) (*os.File, error) {
	made, err := unix.Openat(int(dir.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o400)
	if err != nil {
		return nil, fmt.Errorf("cannot make the file to show it at: %w", err)
	}
	unix.Close(made)
	return openPathAt(dir, name)
}

func openPathAt(dir *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func throughFD(file *os.File) string {
	return fmt.Sprintf("/proc/thread-self/fd/%d", file.Fd())
}

func bind(source, target *os.File) error {
	return unix.Mount(throughFD(source), throughFD(target), "", unix.MS_BIND, "")
}

// remountReadOnly keeps the flags that the source's mount has: in a user
// namespace they cannot be taken off.
func remountReadOnly(dir *os.File, name string) error {
	mounted, err := openPathAt(dir, name)
	if err != nil {
		return err
	}
	defer mounted.Close()
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	return unix.MountSetattr(int(mounted.Fd()), "", unix.AT_EMPTY_PATH, attr)
}

// mountDevices makes nodes that UID owns and shows them over the host's. A
// user namespace may not make nodes: then the host's stay what is seen.
func (s Spawn) mountDevices(dir *os.File) error {
	if len(s.Devices) == 0 {
		return nil
	}
	nodes, err := mountNodeDir(dir)
	if err != nil {
		return fmt.Errorf("cannot make a place for the VMM's devices: %w", err)
	}
	defer nodes.Close()
	for i, path := range s.Devices {
		err := s.mountDevice(nodes, fmt.Sprintf("%d", i), path)
		if errors.Is(err, errNoNodes) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot give the VMM %s: %w", path, err)
		}
	}
	return nil
}

// mountNodeDir mounts a small tmpfs, on which nodes are devices whatever the
// file system of Dir, and returns its root.
func mountNodeDir(dir *os.File) (*os.File, error) {
	if err := unix.Mkdirat(int(dir.Fd()), deviceDir, 0o711); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, err
	}
	under, err := openPathAt(dir, deviceDir)
	if err != nil {
		return nil, err
	}
	defer under.Close()
	if err := unix.Mount("tmpfs", throughFD(under), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=64k,mode=0711"); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(dir.Fd()), deviceDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), deviceDir), nil
}

var errNoNodes = errors.New("no device nodes can be made here")

func (s Spawn) mountDevice(nodes *os.File, name, path string) error {
	host, err := openPath(path)
	if err != nil {
		return err
	}
	defer host.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(host.Fd()), &stat); err != nil {
		return err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFCHR {
		return errors.New("it is not a character device")
	}
	if err := makeNode(nodes, name, stat.Rdev, s.UID, s.GID); err != nil {
		return err
	}
	node, err := openPathAt(nodes, name)
	if err != nil {
		return err
	}
	defer node.Close()
	return bind(node, host)
}

func makeNode(nodes *os.File, name string, device uint64, uid, gid int) error {
	err := unix.Mknodat(int(nodes.Fd()), name, unix.S_IFCHR|0o600, int(device))
	if errors.Is(err, unix.EPERM) {
		return errNoNodes
	}
	if err != nil {
		return err
	}
	return unix.Fchownat(int(nodes.Fd()), name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
}
