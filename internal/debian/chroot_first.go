package debian

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// notStarted is the status of a first process that could not start its program.
const notStarted = 125

// aliveFD is the pipe whose end tells that who started us is gone.
const aliveFD = 3

// A proc filesystem shows the pid namespace of the process that mounts it, so
// the mounts must be made by a process that is inside already and knows how.
// That is this very program, started anew, which is why it has to look at its
// name before main does.
func init() {
	if len(os.Args) == 2 && os.Args[0] == chrootArg0 {
		os.Exit(firstProcess(os.Args[1]))
	}
}

// firstProcess is process 1 of the namespaces: it mounts, starts the program,
// reaps, and gives the program's status as its own. When it ends the kernel
// kills everything else in the namespace.
func firstProcess(text string) int {
	go func() {
		var b [1]byte
		_, _ = os.NewFile(aliveFD, "alive").Read(b[:])
		os.Exit(notStarted)
	}()
	var order chrootOrder
	if err := json.Unmarshal([]byte(text), &order); err != nil {
		return sayNotStarted(err)
	}
	if err := keepFiles(); err != nil {
		return sayNotStarted(err)
	}
	if err := enter(order); err != nil {
		return sayNotStarted(err)
	}
	status, err := runAndReap(order)
	if err != nil {
		return sayNotStarted(err)
	}
	return status
}

// keepFiles makes all open files but the first three this process's alone:
// those for Chroot.Hold, and whatever the host's shell had handed down.
func keepFiles() error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("cannot list open files: %w", err)
	}
	for _, entry := range open {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= aliveFD {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

func sayNotStarted(err error) int {
	fmt.Fprintln(os.Stderr, "cannot start:", err)
	return notStarted
}

// enter makes the mounts and the change of root.
func enter(order chrootOrder) error {
	unix.Umask(0o022)
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("cannot make mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte("localhost")); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	root, err := os.Open(order.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := mountAll(root, order); err != nil {
		return err
	}
	if err := root.Chdir(); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot change root: %w", err)
	}
	return nil
}

// mount is one mount inside the tree.
type mount struct {
	source, target, kind string
	flags                uintptr
	data                 string
}

func mountAll(root *os.File, order chrootOrder) error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV
	mounts := []mount{
		{"proc", "proc", "proc", quiet | unix.MS_NOEXEC, ""},
		{"sysfs", "sys", "sysfs", quiet | unix.MS_NOEXEC | unix.MS_RDONLY, ""},
		{"tmpfs", "dev", "tmpfs", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "run", "tmpfs", quiet, "mode=755"},
		{"tmpfs", "tmp", "tmpfs", quiet, "mode=1777"},
		{"devpts", "dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=666,mode=620"},
		{"tmpfs", "dev/shm", "tmpfs", quiet, "mode=1777"},
	}
	for _, b := range order.Binds {
		mounts = append(mounts, mount{b.Source, strings.TrimPrefix(b.Target, "/"), "", unix.MS_BIND, ""})
	}
	for _, m := range mounts {
		if err := m.make(root); err != nil {
			return fmt.Errorf("cannot mount /%s: %w", m.target, err)
		}
	}
	return fillDev(root)
}

// make mounts over a directory of the tree, which no link in the tree can turn
// into one outside. A bind is made read-only.
func (m mount) make(root *os.File) error {
	target, err := openInside(root, m.target)
	if err != nil {
		return err
	}
	defer target.Close()
	if err := unix.Mount(m.source, fdPath(target), m.kind, m.flags, m.data); err != nil {
		return err
	}
	if m.flags&unix.MS_BIND == 0 {
		return nil
	}
	mounted, err := openInside(root, m.target)
	if err != nil {
		return err
	}
	defer mounted.Close()
	return unix.Mount("", fdPath(mounted), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, "")
}

// openInside opens a directory below root as if root were "/", making it where
// it is missing.
func openInside(root *os.File, name string) (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(int(root.Fd()), name, how)
	if errors.Is(err, unix.ENOENT) && name != "." {
		parent, err := openInside(root, path.Dir(name))
		if err != nil {
			return nil, err
		}
		defer parent.Close()
		if err := unix.Mkdirat(int(parent.Fd()), path.Base(name), 0o755); err != nil {
			return nil, err
		}
		fd, err = unix.Openat2(int(root.Fd()), name, how)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// fdPath names an open file so that mount takes exactly it.
func fdPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

// fillDev puts the host's harmless device nodes into the tree's new /dev, by
// bind mounts, which a user namespace allows too, where mknod is refused.
func fillDev(root *os.File) error {
	dev, err := openInside(root, "dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	dir := fdPath(dev)
	for _, name := range []string{"null", "zero", "full", "random", "urandom", "tty"} {
		target := filepath.Join(dir, name)
		if err := os.WriteFile(target, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("cannot show /dev/%s: %w", name, err)
		}
	}
	links := map[string]string{
		"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1",
		"stderr": "/proc/self/fd/2", "ptmx": "pts/ptmx",
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// runAndReap starts the program and waits for it, reaping orphans on the way.
func runAndReap(order chrootOrder) (int, error) {
	program, err := lookPath(order.Argv[0])
	if err != nil {
		return 0, err
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		return 0, err
	}
	if order.NoSync {
		runtime.LockOSThread() // what this thread starts inherits its filter
		if err := ignoreSync(); err != nil {
			return 0, err
		}
	}
	pid, err := syscall.ForkExec(program, order.Argv, &syscall.ProcAttr{
		Dir:   "/",
		Env:   order.Env,
		Files: []uintptr{null.Fd(), os.Stdout.Fd(), os.Stderr.Fd()},
	})
	if err != nil {
		return 0, fmt.Errorf("%s: %w", program, err)
	}
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case got == pid && status.Signaled():
			return 128 + int(status.Signal()), nil
		case got == pid && status.Exited():
			return status.ExitStatus(), nil
		}
	}
}

// lookPath finds a program in the PATH of the tree.
func lookPath(name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	search := strings.TrimPrefix(baseEnv[0], "PATH=")
	for _, dir := range filepath.SplitList(search) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full, nil
		}
	}
	return "", fmt.Errorf("no program %s", name)
}
