package guestinit

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mount is one filesystem that the guest starts with.
type mount struct {
	fs, at string
	flags  uintptr
	data   string
	mode   uint32 // of the mount point, when it has to be made
}

// firstMounts are what this program itself needs.
var firstMounts = []mount{
	{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755", 0o755},
	{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555},
	{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "", 0o555},
}

// guestMounts are the rest of what any program in the guest may count on, also
// one that runs before the image's init has done its own mounting. Those are
// the options that systemd takes, which leaves alone what is mounted already.
var guestMounts = []mount{
	{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666", 0o755},
	{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=01777", 0o1777},
	{"cgroup2", "/sys/fs/cgroup", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "nsdelegate,memory_recursiveprot", 0o755},
}

func mountAll(mounts []mount) error {
	for _, m := range mounts {
		if err := m.mount(); err != nil {
			return err
		}
	}
	return nil
}

func (m mount) mount() error {
	if err := makeDir(m.at, m.mode); err != nil {
		return err
	}
	err := unix.Mount(m.fs, m.at, m.fs, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) {
		return nil // the kernel has mounted it
	}
	return cannot("mount "+m.at, err)
}

// makeDir makes a directory with exactly this mode; one that is there is left
// as it is.
func makeDir(path string, mode uint32) error {
	err := unix.Mkdir(path, mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return cannot("make directory "+path, err)
	}
	return cannot("make directory "+path, unix.Chmod(path, mode))
}

// furnish gives the new root what it needs before it becomes /: its standard
// directories, /run with the agent in it, and the mounts of this program.
func furnish(root string) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := makeDir(root+dir, 0o755); err != nil {
			return err
		}
	}
	run := mount{"tmpfs", root + "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755,size=20%", 0o755}
	if err := run.mount(); err != nil {
		return err
	}
	if err := makeDir(root+"/run/banger", 0o755); err != nil {
		return err
	}
	if err := copyProgram("/agent", root+agentPath); err != nil {
		return err
	}
	for _, m := range firstMounts {
		if err := unix.Mount(m.at, root+m.at, "", unix.MS_MOVE, ""); err != nil {
			return cannot("move "+m.at+" into the root filesystem", err)
		}
	}
	return nil
}

// copyProgram copies an executable straight out of the page cache.
func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return cannot("copy the agent", err)
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return cannot("copy the agent", err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return cannot("copy the agent", err)
	}
	defer out.Close()
	for left := info.Size(); left > 0; {
		n, err := unix.Sendfile(int(out.Fd()), int(in.Fd()), nil, int(left))
		if err != nil {
			return cannot("copy the agent", err)
		}
		if n == 0 {
			return errors.New("cannot copy the agent: it is shorter than it says")
		}
		left -= int64(n)
	}
	return nil
}

// switchRoot makes root the machine's / and frees the memory of the initramfs.
func switchRoot(root string) error {
	freeInitramfs("/")
	if err := unix.Chdir(root); err != nil {
		return cannot("enter the root filesystem", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return cannot("make the root filesystem the machine's root", err)
	}
	if err := unix.Chroot("."); err != nil {
		return cannot("enter the root filesystem", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return cannot("enter the root filesystem", err)
	}
	return mountAll(guestMounts)
}

// freeInitramfs removes the files that the initramfs is known to have. What is
// left behind only costs memory, so errors don't matter.
func freeInitramfs(dir string) {
	_ = os.RemoveAll(dir + "modules")
	_ = os.Remove(dir + "agent")
	_ = os.Remove(dir + "init")
}

// modulesMount is where the kernel's drive is mounted before the tree that
// programs look at, /lib/modules, is bound to it.
const modulesDir = "/lib/modules"

// mountModules puts the kernel's own modules at /lib/modules, over whatever the
// image has there.
func mountModules(device string) error {
	if device == "" {
		return nil
	}
	path := "/dev/" + device
	if err := waitForDevice(path); err != nil {
		return err
	}
	if err := os.MkdirAll(modulesDir, 0o755); err != nil {
		return cannot("make "+modulesDir, err)
	}
	err := unix.Mount(path, modulesDir, "ext4", unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOATIME, "")
	return cannot("mount the kernel's modules", err)
}

// deviceLinks are names in /dev that the kernel does not make.
var deviceLinks = map[string]string{
	"/dev/fd":     "/proc/self/fd",
	"/dev/stdin":  "/proc/self/fd/0",
	"/dev/stdout": "/proc/self/fd/1",
	"/dev/stderr": "/proc/self/fd/2",
	"/dev/core":   "/proc/kcore",
}

func linkDevices() {
	for name, to := range deviceLinks {
		_ = unix.Symlink(to, name) // there already: as good
	}
}

// raiseLoopback brings the interface lo up. A program that finds it down only
// misses 127.0.0.1, so this never fails a boot.
func raiseLoopback() {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(ifr)))
}
