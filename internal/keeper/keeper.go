// Package keeper keeps files open while no daemon lives. What a guest's kernel
// said last is in a pipe, and a pipe forgets when nobody holds it: when VMM and
// daemon are both gone. So a process of its own, small and without any duty but
// this, holds the pipes of all running VMs.
//
// It listens on a seqpacket socket. A message is a verb, a blank and a name;
// "keep" carries one file descriptor. Each is answered with "ok". The process
// ends when nobody is connected and it keeps nothing, or its socket is gone, so
// that nobody ever will be.
package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Argument is what makes bangerd a keeper instead of a daemon.
const Argument = "keep"

// maxMessage is longer than any message; names are VM ids.
const maxMessage = 256

// socketName is where the keeper listens, in the runtime directory.
const socketName = "keeper.sock"

// Keeper is a daemon's connection to the keeper. When that dies another takes
// its place, and is given what this daemon had the first one keep.
type Keeper struct {
	dir, program string

	mu   sync.Mutex
	conn *net.UnixConn
	kept map[string]string // name to the pipe's path
}

// Connect reaches the keeper of the runtime directory dir and starts one from
// program where there is none.
func Connect(dir, program string) (*Keeper, error) {
	k := &Keeper{dir: dir, program: program, kept: map[string]string{}}
	return k, k.connect()
}

func (k *Keeper) connect() error {
	path := filepath.Join(k.dir, socketName)
	if conn, err := dial(path); err == nil {
		// One that is just ending still has an open door.
		if exchange(conn, "drop ", nil) == nil {
			k.conn = conn
			return nil
		}
		conn.Close()
	}
	if err := start(path, k.program); err != nil {
		return fmt.Errorf("cannot start the keeper of consoles: %w", err)
	}
	conn, err := dial(path)
	if err != nil {
		return fmt.Errorf("cannot reach the keeper of consoles: %w", err)
	}
	k.conn = conn
	return nil
}

func dial(path string) (*net.UnixConn, error) {
	return net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
}

// start opens the socket here, so that it can be dialled at once, and hands it
// to the new process.
func start(path, program string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return err
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	socket, err := l.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	cmd := exec.Command(program, Argument)
	cmd.Dir = "/"
	cmd.Env = []string{"GOMAXPROCS=1", "GOGC=20"}
	cmd.ExtraFiles = []*os.File{socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// It outlives this process; while this one lives it must not stay a zombie.
	go func() { _ = cmd.Wait() }()
	return nil
}

// Keep holds the pipe at path open under a name until Drop.
func (k *Keeper) Keep(name, path string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.again(func() error { return k.keep(name, path) }); err != nil {
		return fmt.Errorf("cannot keep the console of %s: %w", name, err)
	}
	k.kept[name] = path
	return nil
}

// Drop lets go of what is kept under a name; an unknown one is no error.
func (k *Keeper) Drop(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.kept, name)
	if err := k.again(func() error { return exchange(k.conn, "drop "+name, nil) }); err != nil {
		return fmt.Errorf("cannot let go of the console of %s: %w", name, err)
	}
	return nil
}

// again asks once more where the keeper has died, or does not answer.
func (k *Keeper) again(ask func() error) error {
	err := ask()
	if err == nil || errors.Is(err, errRefused) {
		return err
	}
	k.conn.Close()
	if err := k.connect(); err != nil {
		return err
	}
	for name, path := range k.kept {
		// A pipe that is gone by now is nobody's console any more.
		_ = k.keep(name, path)
	}
	return ask()
}

func (k *Keeper) keep(name, path string) error {
	pipe, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Join(errRefused, err)
	}
	defer pipe.Close()
	return exchange(k.conn, "keep "+name, unix.UnixRights(int(pipe.Fd())))
}

// errRefused is wrapped where it is not the connection's fault.
var errRefused = errors.New("refused")

// answerTime is far more than a keeper takes to answer. One that hangs is
// replaced, as one that has died.
const answerTime = 2 * time.Second

func exchange(conn *net.UnixConn, message string, rights []byte) error {
	if err := conn.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return err
	}
	if _, _, err := conn.WriteMsgUnix([]byte(message), rights, nil); err != nil {
		return err
	}
	answer := make([]byte, maxMessage)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if string(answer[:n]) != "ok" {
		return fmt.Errorf("%w: %s", errRefused, answer[:n])
	}
	return nil
}

// Close ends the connection; what is kept stays kept.
func (k *Keeper) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.conn.Close()
}

// Serve is the keeper's life: it answers on the listening socket that it
// inherited as file 3.
func Serve() error {
	file := os.NewFile(3, socketName)
	l, err := net.FileListener(file)
	file.Close()
	if err != nil {
		return fmt.Errorf("cannot listen: %w", err)
	}
	s := &server{listener: l, kept: map[string]*os.File{}}
	// Where the user's watches are used up, it only ends later.
	_ = s.watchSocket(l.Addr().String())
	for {
		conn, err := l.Accept()
		if err != nil {
			return nil // closed: nothing left to do
		}
		s.joined()
		go s.serve(conn.(*net.UnixConn))
	}
}

type server struct {
	listener net.Listener

	mu    sync.Mutex
	conns int
	kept  map[string]*os.File
	gone  bool // the socket has no name any more
}

// watchSocket learns when the socket's name goes or leads to another.
func (s *server) watchSocket(path string) error {
	mine, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("cannot look at the keeper's socket: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch the keeper's socket: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	// The loss of a name is a change of the link count, which is an attribute.
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_ATTRIB|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF); err != nil {
		events.Close()
		return fmt.Errorf("cannot watch the keeper's socket: %w", err)
	}
	go func() {
		defer events.Close()
		buf := make([]byte, 4096)
		for {
			now, err := os.Lstat(path)
			if err != nil || !os.SameFile(mine, now) {
				s.lost()
				return
			}
			if _, err := events.Read(buf); err != nil {
				return
			}
		}
	}()
	return nil
}

func (s *server) lost() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.endIfIdle()
}

// endIfIdle ends the process with its last duty.
func (s *server) endIfIdle() {
	if s.conns == 0 && (len(s.kept) == 0 || s.gone) {
		s.listener.Close()
	}
}

func (s *server) joined() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns++
}

func (s *server) left() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns--
	s.endIfIdle()
}

func (s *server) serve(conn *net.UnixConn) {
	defer s.left()
	defer conn.Close()
	message, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	for {
		n, rn, _, _, err := conn.ReadMsgUnix(message, rights)
		if err != nil || n == 0 {
			return
		}
		answer := "ok"
		if err := s.obey(string(message[:n]), rights[:rn]); err != nil {
			answer = err.Error()
		}
		if _, err := conn.Write([]byte(answer)); err != nil {
			return
		}
	}
}

func (s *server) obey(message string, rights []byte) error {
	verb, name, _ := strings.Cut(message, " ")
	switch verb {
	case "keep":
		f, err := received(rights)
		if err != nil {
			return err
		}
		s.put(name, f)
	case "drop":
		s.put(name, nil)
	default:
		return fmt.Errorf("unknown verb %q", verb)
	}
	return nil
}

func (s *server) put(name string, f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.kept[name]; old != nil {
		old.Close()
	}
	delete(s.kept, name)
	if f != nil {
		s.kept[name] = f
	}
}

func received(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, errors.New("no file came with it")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("not one file came with it")
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "kept"), nil
}
