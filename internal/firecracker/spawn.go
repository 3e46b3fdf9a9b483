package firecracker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/banger-vm/banger/internal/proc"
	"golang.org/x/sys/unix"
)

// Spawn says how to start a VMM.
type Spawn struct {
	// Bin is the VMM's program. Only this process must reach it, not UID.
	Bin string
	// ID is the VM's id: letters, digits and hyphens.
	ID string
	// Dir is the VMM's working directory, made by the caller; UID must be
	// able to write there. Every path that the VMM is told is a name in it.
	Dir string
	// UID and GID are who the VMM runs as, with no other groups.
	UID, GID int
	// Console is the guest's serial console: the VMM's stdout, which it makes
	// non-blocking. Never hand in a file that this process shares.
	Console *os.File
	// Args follow the arguments that Start gives by itself.
	Args []string
	// Binds are files that appear in Dir, seen by this VMM only.
	Binds []Bind
	// Devices are nodes of the host, like /dev/kvm, that UID must be able to
	// open: the VMM sees nodes of its own at the same paths. Where such nodes
	// cannot be made, in a user namespace, it sees the host's.
	Devices []string
	// Hold are open files that the VMM inherits and keeps, from fd 3 on: the
	// lock on a disk lives as long as it does.
	Hold []*os.File
}

// Bind makes the file Source appear as Dir/Name.
type Bind struct {
	Source   string
	Name     string
	ReadOnly bool
}

// Start starts a VMM and returns when its API socket accepts connections. It
// runs in a session of its own and outlives this process.
//
// It has its own mount namespace when there are Binds or Devices, an empty
// environment, umask 077, no_new_privs, at most 2048 open files and no core
// dumps; stdin is /dev/null and stderr is ErrorLog in Dir. Sockets that an
// earlier VMM left in Dir are removed before, and the log begins anew.
//
// When the VMM ends before it listens, the error quotes what it said. When
// Start fails nothing runs any more.
func Start(ctx context.Context, s Spawn) (*Process, error) {
	p, err := s.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot start the VMM %s: %w", s.Bin, err)
	}
	return p, nil
}

func (s Spawn) start(ctx context.Context) (*Process, error) {
	dir, err := os.Open(s.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	socket, err := watchFor(dir, APISocket)
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	log, err := fifoAt(dir, Log, s.UID, s.GID)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// A VMM that opens its log for writing only would be left without a reader, and
	// killed by its first word.
	s.Hold = append(slices.Clone(s.Hold), log)
	p, err := s.launch(dir)
	if err != nil {
		return nil, err
	}
	if err := p.awaitAPI(ctx, socket); err != nil {
		return nil, errors.Join(p.explain(err), s.giveUp(p))
	}
	return p, nil
}

// explain adds the VMM's own words to err.
func (p *Process) explain(err error) error {
	if said := p.LastWords(); said != "" {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// giveUpTimeout bounds the end of a VMM that could not be started.
const giveUpTimeout = 10 * time.Second

func (s Spawn) giveUp(p *Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), giveUpTimeout)
	defer cancel()
	err := p.Kill(ctx)
	p.Release()
	return err
}

// launch makes the VMM's files and the process.
func (s Spawn) launch(dir *os.File) (*Process, error) {
	files, err := s.openFiles(dir)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	child, err := s.fork(files)
	if err != nil {
		return nil, err
	}
	p, err := own(child, s.Dir)
	if err != nil {
		return nil, errors.Join(err, child.Kill())
	}
	if err := limit(child.Pid); err != nil {
		return nil, errors.Join(err, s.giveUp(p))
	}
	return p, nil
}

// own holds a child and reaps it when it ends.
func own(child *os.Process, dir string) (*Process, error) {
	id, err := proc.Of(child.Pid)
	if err != nil {
		return nil, err
	}
	held, err := proc.Open(id)
	if err != nil {
		return nil, err
	}
	p := newProcess(held, dir)
	go p.watch(child)
	return p, nil
}

// spawnFiles are what the child gets: stdin, stdout, stderr, what it holds,
// and last its own program.
type spawnFiles struct {
	inherited []*os.File
	opened    []*os.File
}

func (f *spawnFiles) Close() {
	for _, file := range f.opened {
		file.Close()
	}
}

func (f *spawnFiles) add(file *os.File, err error) error {
	if err != nil {
		return err
	}
	f.opened = append(f.opened, file)
	f.inherited = append(f.inherited, file)
	return nil
}

func (s Spawn) openFiles(dir *os.File) (_ *spawnFiles, err error) {
	files := &spawnFiles{}
	defer func() {
		if err != nil {
			files.Close()
		}
	}()
	for _, stale := range []string{APISocket, VsockSocket} {
		if err := removeAt(dir, stale); err != nil {
			return nil, err
		}
	}
	if err := files.add(os.Open(os.DevNull)); err != nil {
		return nil, err
	}
	files.inherited = append(files.inherited, s.Console)
	if err := files.add(createAt(dir, ErrorLog, os.Geteuid(), os.Getegid())); err != nil {
		return nil, err
	}
	files.inherited = append(files.inherited, s.Hold...)
	return files, files.add(openPath(s.Bin))
}

func openPath(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// createAt makes an empty file of this owner, instead of what an earlier VMM
// may have put there.
func createAt(dir *os.File, name string, uid, gid int) (*os.File, error) {
	if err := removeAt(dir, name); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_APPEND|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	file := os.NewFile(uintptr(fd), name)
	if err := file.Chown(uid, gid); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// fifoAt is createAt for a FIFO.
func fifoAt(dir *os.File, name string, uid, gid int) (*os.File, error) {
	if err := removeAt(dir, name); err != nil {
		return nil, err
	}
	path := filepath.Join(dir.Name(), name)
	if err := unix.Mknodat(int(dir.Fd()), name, unix.S_IFIFO|0o600, 0); err != nil {
		return nil, &os.PathError{Op: "create", Path: path, Err: err}
	}
	fifo, err := openFIFO(path)
	if err != nil {
		return nil, err
	}
	if err := fifo.Chown(uid, gid); err != nil {
		fifo.Close()
		return nil, err
	}
	return fifo, nil
}

// openFIFO opens no other kind of file: the VMM may have put one there.
func openFIFO(path string) (*os.File, error) {
	fifo, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if info, err := fifo.Stat(); err != nil || info.Mode().Type() != os.ModeNamedPipe {
		fifo.Close()
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("it is no FIFO")}
	}
	return fifo, nil
}

func removeAt(dir *os.File, name string) error {
	err := unix.Unlinkat(int(dir.Fd()), name, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return nil
}

func (s Spawn) argv() []string {
	argv := []string{filepath.Base(s.Bin), "--api-sock", APISocket, "--id", s.ID, "--log-path", Log}
	return append(argv, s.Args...)
}

// fork starts the child from a thread of its own. What the child is to
// inherit and only threads have (mount namespace, working directory, umask,
// no_new_privs) is set on that thread, which then ends.
func (s Spawn) fork(files *spawnFiles) (*os.Process, error) {
	type result struct {
		child *os.Process
		err   error
	}
	started := make(chan result, 1)
	proc.OnThrowawayThread(func() {
		child, err := s.forkHere(files)
		started <- result{child, err}
	})
	r := <-started
	return r.child, r.err
}

func (s Spawn) forkHere(files *spawnFiles) (*os.Process, error) {
	if err := s.prepareThread(); err != nil {
		return nil, err
	}
	program := fmt.Sprintf("/proc/self/fd/%d", len(files.inherited)-1)
	child, err := os.StartProcess(program, s.argv(), &os.ProcAttr{
		Env:   []string{},
		Files: files.inherited,
		Sys:   &syscall.SysProcAttr{Setsid: true, Credential: s.credential()},
	})
	if err != nil {
		// The path is of no use to a reader: it is Bin, opened.
		return nil, errors.Unwrap(err)
	}
	return child, nil
}

// credential is nil when the VMM runs as who runs this process.
func (s Spawn) credential() *syscall.Credential {
	if s.UID == os.Geteuid() && s.GID == os.Getegid() && s.UID != 0 {
		return nil
	}
	return &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.GID), NoSetGroups: setgroupsDenied()}
}

// setgroupsDenied is true in a user namespace with a single user, where
// nobody has groups to drop (user_namespaces(7)).
func setgroupsDenied() bool {
	state, err := os.ReadFile("/proc/self/setgroups")
	return err == nil && strings.TrimSpace(string(state)) == "deny"
}

func (s Spawn) prepareThread() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("cannot have a working directory of its own: %w", err)
	}
	if len(s.Binds)+len(s.Devices) > 0 {
		if err := s.arrangeMounts(); err != nil {
			return err
		}
	}
	// By name, for it is the mount namespace's own view that is wanted.
	if err := unix.Chdir(s.Dir); err != nil {
		return fmt.Errorf("cannot enter %s: %w", s.Dir, err)
	}
	unix.Umask(0o077)
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up privileges: %w", err)
	}
	return nil
}

// maxFiles is the jailer's default for a VMM.
const maxFiles = 2048

// limit lowers the limits of a process that has just started. The VMM has
// not been told anything yet, so there is nothing that it could have done
// without them.
func limit(pid int) error {
	for resource, most := range map[int]uint64{unix.RLIMIT_NOFILE: maxFiles, unix.RLIMIT_CORE: 0} {
		var now unix.Rlimit
		if err := unix.Prlimit(pid, resource, nil, &now); err != nil {
			return limitError(err)
		}
		lower := unix.Rlimit{Cur: min(now.Max, most), Max: min(now.Max, most)}
		if err := unix.Prlimit(pid, resource, &lower, nil); err != nil {
			return limitError(err)
		}
	}
	return nil
}

// limitError forgives a process that has ended: awaitAPI tells why. It also
// forgives a root that lacks CAP_SYS_RESOURCE, as in many containers, and so may
// not limit another user's process: that VMM keeps the daemon's own limits.
func limitError(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return fmt.Errorf("cannot limit the VMM's resources: %w", err)
}
