package agent

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/timerslack"
)

// HangUpGrace is how long what is still in a command's session lives after the
// hang-up that it gets when its client goes.
const HangUpGrace = 10 * time.Second

// outputGrace is how long the output of a command that has ended is still read
// while something that it left behind holds it open. All that the command
// itself wrote is read in any case.
const outputGrace = 250 * time.Millisecond

// The size of a terminal whose client has none.
const (
	standardRows = 24
	standardCols = 80
)

// order is a command to start, with everything decided.
type order struct {
	argv     []string
	arg0     string // what the program sees as its name; "" is argv[0]
	env      []string
	dir      string
	terminal bool
	noInput  bool // its standard input is /dev/null
	rows     uint16
	cols     uint16
	as       *user // whom it runs as; nil: root
}

// process is a started command, in a session and a control group of its own.
type process struct {
	proc  *os.Process
	group *cgroup
	// tty is the terminal's master; without one there are three pipes.
	tty            *os.File
	stdin          *os.File
	stdout, stderr *os.File
	outputs        []*output

	done   chan struct{}
	status int
}

// start starts a command. Its error is an *proto.ExecError if the guest has no
// such program or can't run it.
func (a *Agent) start(o order) (*process, error) {
	path, err := findProgram(o)
	if err != nil {
		return nil, err
	}
	p := &process{group: a.groups.create(), done: make(chan struct{})}
	theirs, err := p.openFiles(o)
	if err == nil {
		err = giveTo(o.as, theirs)
	}
	if err == nil {
		err = p.run(path, o, theirs)
	}
	closeAll(theirs)
	p.group.started()
	if err != nil {
		p.closeFiles()
		p.group.release()
		return nil, err
	}
	go func() {
		p.wait()
		a.commandOver()
	}()
	return p, nil
}

// findProgram looks for the program as a shell does.
func findProgram(o order) (string, error) {
	if info, err := os.Stat(o.dir); err != nil || !info.IsDir() {
		return "", &proto.ExecError{Kind: proto.ExecNoDirectory, Message: fmt.Sprintf("there is no directory %s in the guest", o.dir)}
	}
	name := o.argv[0]
	if strings.Contains(name, "/") {
		return checkProgram(inDir(o.dir, name), name)
	}
	var denied error
	for _, dir := range filepath.SplitList(lookup(o.env, "PATH")) {
		path := inDir(o.dir, filepath.Join(dir, name))
		if _, err := os.Stat(path); err != nil {
			continue
		}
		_, err := checkProgram(path, name)
		if err == nil {
			return path, nil
		}
		if denied == nil {
			denied = err
		}
	}
	if denied != nil {
		return "", denied
	}
	return "", noProgram(name)
}

func inDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func noProgram(name string) error {
	return &proto.ExecError{Kind: proto.ExecNoProgram, Message: fmt.Sprintf("there is no program %q in the guest", name)}
}

func cannotExec(name, why string) error {
	return &proto.ExecError{Kind: proto.ExecCannot, Message: fmt.Sprintf("the guest cannot run %s: %s", name, why)}
}

func checkProgram(path, name string) (string, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return "", noProgram(name)
	case err != nil:
		return "", cannotExec(name, reason(err))
	case info.IsDir():
		return "", cannotExec(name, "it is a directory")
	case unix.Access(path, unix.X_OK) != nil:
		return "", cannotExec(name, "permission denied (it is not marked executable)")
	}
	return path, nil
}

// reason is an error without the names around it.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// openFiles makes the pipes or the terminal, and returns the command's ends as
// its standard input, output and error.
func (p *process) openFiles(o order) ([]*os.File, error) {
	if o.terminal {
		return p.openTerminal(o)
	}
	var theirs []*os.File
	for i, ours := range []**os.File{&p.stdin, &p.stdout, &p.stderr} {
		if i == 0 && o.noInput {
			null, err := os.Open(os.DevNull)
			if err != nil {
				return nil, err
			}
			theirs = append(theirs, null)
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, fmt.Errorf("cannot make a pipe: %w", err)
		}
		if i == 0 {
			r, w = w, r
		}
		*ours = r
		theirs = append(theirs, w)
	}
	p.outputs = []*output{{file: p.stdout}, {file: p.stderr}}
	return theirs, nil
}

func (p *process) openTerminal(o order) ([]*os.File, error) {
	master, slave, err := openPTY()
	if err != nil {
		return nil, fmt.Errorf("cannot make a terminal: %w", err)
	}
	p.tty, p.stdin, p.stdout = master, master, master
	p.outputs = []*output{{file: master}}
	theirs := []*os.File{slave, slave, slave}
	if o.rows == 0 || o.cols == 0 {
		o.rows, o.cols = standardRows, standardCols
	}
	return theirs, p.resize(o.rows, o.cols)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close() // a terminal is there three times
	}
}

func (p *process) closeFiles() {
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			f.Close()
		}
	}
}

func (p *process) run(path string, o order, theirs []*os.File) error {
	argv := append([]string{o.argv[0]}, o.argv[1:]...)
	if o.arg0 != "" {
		argv[0] = o.arg0
	}
	err := p.launch(path, argv, o, theirs)
	if errors.Is(err, unix.ENOEXEC) {
		// A script without a first line that names its shell, as execvp(3) does.
		err = p.launch("/bin/sh", append([]string{"sh", path}, o.argv[1:]...), o, theirs)
	}
	switch {
	case err == nil:
		p.resetOOM()
		return nil
	case errors.Is(err, unix.ENOENT):
		return cannotExec(o.argv[0], "the interpreter or loader that it names is missing")
	}
	return cannotExec(o.argv[0], reason(err))
}

func (p *process) launch(path string, argv []string, o order, theirs []*os.File) error {
	sys := &syscall.SysProcAttr{Setsid: true, Setctty: o.terminal}
	if o.as != nil {
		sys.Credential = &syscall.Credential{Uid: o.as.uid, Gid: o.as.gid, Groups: o.as.groups}
	}
	if p.group != nil {
		sys.UseCgroupFD, sys.CgroupFD = true, p.group.fd
	}
	attr := &os.ProcAttr{Dir: o.dir, Env: o.env, Files: theirs, Sys: sys}
	err := p.start(path, argv, attr)
	if err != nil && p.group != nil && !errors.Is(err, unix.ENOEXEC) && !errors.Is(err, unix.ENOENT) {
		// It may be the group that the kernel refuses.
		sys.UseCgroupFD = false
		err = p.start(path, argv, attr)
	}
	return err
}

func (p *process) start(path string, argv []string, attr *os.ProcAttr) error {
	return timerslack.Punctual(func() (err error) {
		p.proc, err = os.StartProcess(path, argv, attr)
		return err
	})
}

// resetOOM lets the kernel choose the command when memory is short, as it would
// without banger; the agent itself it must not choose.
func (p *process) resetOOM() {
	// It may have ended already.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.proc.Pid), []byte("0"), 0)
}

func (p *process) wait() {
	state, err := p.proc.Wait()
	p.status = exitStatus(state, err)
	// Before done is closed: that lets the outputs end.
	for _, o := range p.outputs {
		o.finish()
	}
	p.group.release()
	close(p.done)
}

// exitStatus is the status that a shell would show.
func exitStatus(state *os.ProcessState, err error) int {
	if err != nil {
		return proto.MaxStatus
	}
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends s to the command's process group, under a terminal to the group
// in its foreground.
func (p *process) signal(s unix.Signal) {
	if p.over() {
		return // the number may be another's by now
	}
	group := p.proc.Pid
	if p.tty != nil {
		group = p.foreground(group)
	}
	_ = unix.Kill(-group, s) // it may just have ended
}

func (p *process) foreground(group int) int {
	_ = p.control(func(fd int) error {
		g, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && g > 0 {
			group = g
		}
		return err
	})
	return group
}

func (p *process) resize(rows, cols uint16) error {
	if p.tty == nil {
		return nil
	}
	err := p.control(func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if err != nil {
		return fmt.Errorf("cannot set the terminal's size: %w", err)
	}
	return nil
}

// control does something to the terminal.
func (p *process) control(do func(fd int) error) error {
	conn, err := p.tty.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := conn.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

// hangUp tells the session that its client is gone, and after grace kills what
// is still in it. What has made itself a session of its own lives on.
func (p *process) hangUp(grace time.Duration) {
	session := p.proc.Pid
	signalSession(session, p.group, unix.SIGHUP)
	signalSession(session, p.group, unix.SIGCONT) // a stopped process hears nothing
	timer := time.NewTimer(grace)
	defer timer.Stop()
	<-timer.C
	signalSession(session, p.group, unix.SIGKILL)
}

func signalSession(session int, g *cgroup, s unix.Signal) {
	for _, pid := range g.processes() {
		if sessionOf(pid) == session {
			_ = unix.Kill(pid, s) // it may just have ended
		}
	}
}

// output reads what a command writes, to its end: the end of the file, or, once
// the command has ended, whatever is there after outputGrace.
type output struct {
	file     *os.File
	draining bool
	left     int
}

// finish bounds further reading. It is called once, when the command has ended.
func (o *output) finish() { _ = o.file.SetReadDeadline(time.Now().Add(outputGrace)) }

// Read implements io.Reader.
func (o *output) Read(p []byte) (int, error) {
	if o.draining {
		return o.drain(p)
	}
	n, err := o.file.Read(p)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		o.beginDrain()
		if n > 0 {
			return n, nil
		}
		return o.drain(p)
	case errors.Is(err, unix.EIO): // a terminal that nobody has open any more
		err = io.EOF
	}
	return n, err
}

// beginDrain allows reading as much as the pipe can have held when the command
// ended; what goes on writing must not keep it open for ever.
func (o *output) beginDrain() {
	o.draining = true
	o.left = 64 << 10
	_ = o.file.SetReadDeadline(time.Time{})
	control, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	_ = control.Control(func(fd uintptr) {
		if size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil {
			o.left = size
		}
	})
}

// drain reads without waiting.
func (o *output) drain(p []byte) (int, error) {
	p = p[:min(len(p), o.left)]
	if len(p) == 0 {
		return 0, io.EOF
	}
	control, err := o.file.SyscallConn()
	if err != nil {
		return 0, io.EOF
	}
	n := 0
	_ = control.Control(func(fd uintptr) { n, err = unix.Read(int(fd), p) })
	if n <= 0 || err != nil {
		return 0, io.EOF
	}
	o.left -= n
	return n, nil
}
