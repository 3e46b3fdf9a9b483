package testdaemon

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/creack/pty"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// takeOver answers 101 and gives the bare connection.
func (d *Daemon) takeOver(w http.ResponseWriter, protocol string) (net.Conn, *bufio.Reader, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\n\r\n",
		protocol, api.VersionHeader, w.Header().Get(api.VersionHeader))
	return conn, buffered.Reader, nil
}

func (d *Daemon) refuseUnlessRunning(w http.ResponseWriter, v *api.VM) (refused bool) {
	d.mu.Lock()
	state := v.State
	d.mu.Unlock()
	if state == api.StateRunning {
		return false
	}
	refuse(w, http.StatusConflict, api.Error{Kind: api.KindWrongState, Message: fmt.Sprintf("cannot reach VM %s: it is %s", v.Name, state),
		Hint: "banger vm start " + v.Name})
	return true
}

func (d *Daemon) ssh(w http.ResponseWriter, r *http.Request, v *api.VM) {
	if d.refuseUnlessRunning(w, v) {
		return
	}
	conn, _, err := d.takeOver(w, api.UpgradeSSH)
	if err != nil {
		return
	}
	defer conn.Close()
	if d.SSH != nil {
		d.SSH(conn)
		return
	}
	io.Copy(conn, conn)
}

// exec runs the command on the host, in a process group of its own.
func (d *Daemon) exec(w http.ResponseWriter, r *http.Request, v *api.VM) {
	var req api.ExecRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || len(req.Argv) == 0 {
		refuse(w, http.StatusBadRequest, api.Error{Kind: api.KindBadRequest, Message: "no command"})
		return
	}
	if d.refuseUnlessRunning(w, v) {
		return
	}
	conn, reader, err := d.takeOver(w, api.UpgradeExec)
	if err != nil {
		return
	}
	defer conn.Close()
	run(req, proto.NewReader(reader), proto.NewWriter(conn))
}

func run(req api.ExecRequest, in *proto.Reader, out *proto.Writer) {
	program := exec.Command(req.Argv[0], req.Argv[1:]...)
	program.Dir = req.Cwd
	program.Env = os.Environ()
	for name, value := range req.Env {
		program.Env = append(program.Env, name+"="+value)
	}
	start := startPipes
	if req.TTY {
		start = startTerminal
	}
	stdin, finish, err := start(program, req, out)
	if err != nil {
		out.JSON(proto.TypeExecError, refusalOf(req, err))
		return
	}
	go serve(program, stdin, in, out)
	finish()
	out.Uint32(proto.TypeExit, uint32(statusOf(program)))
}

func refusalOf(req api.ExecRequest, err error) proto.ExecError {
	kind := proto.ExecCannot
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		kind = proto.ExecNoProgram
	}
	return proto.ExecError{Kind: kind, Message: fmt.Sprintf("cannot run %s: %v", req.Argv[0], err)}
}

func startPipes(program *exec.Cmd, _ api.ExecRequest, out *proto.Writer) (io.WriteCloser, func(), error) {
	program.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := program.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	stdout, err := program.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	stderr, err := program.StderrPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := program.Start(); err != nil {
		return nil, nil, err
	}
	var copies sync.WaitGroup
	copies.Go(func() { out.Copy(proto.TypeStdout, stdout) })
	copies.Go(func() { out.Copy(proto.TypeStderr, stderr) })
	return stdin, func() { copies.Wait(); program.Wait() }, nil
}

func startTerminal(program *exec.Cmd, req api.ExecRequest, out *proto.Writer) (io.WriteCloser, func(), error) {
	terminal, err := pty.StartWithSize(program, &pty.Winsize{Rows: req.Rows, Cols: req.Cols})
	if err != nil {
		return nil, nil, err
	}
	return terminalInput{terminal}, func() {
		out.Copy(proto.TypeStdout, terminal) // ends with EIO when the program does
		program.Wait()
		terminal.Close()
	}, nil
}

// terminalInput is a terminal's side of a command, which has a size and no end
// of its own.
type terminalInput struct{ *os.File }

// serve does what the client's frames say, and hangs up when they end.
func serve(program *exec.Cmd, stdin io.WriteCloser, in *proto.Reader, out *proto.Writer) {
	for {
		frame, err := in.Next()
		if err != nil {
			syscall.Kill(-program.Process.Pid, syscall.SIGHUP)
			return
		}
		switch frame.Type {
		case proto.TypeStdin:
			stdin.Write(frame.Payload)
			out.Uint32(proto.TypeStdinCredit, uint32(len(frame.Payload)))
		case proto.TypeStdinEOF:
			if _, isTerminal := stdin.(terminalInput); !isTerminal {
				stdin.Close()
			}
		case proto.TypeResize:
			rows, cols := frame.Size()
			if terminal, ok := stdin.(terminalInput); ok {
				pty.Setsize(terminal.File, &pty.Winsize{Rows: rows, Cols: cols})
			}
		case proto.TypeSignal:
			syscall.Kill(-program.Process.Pid, syscall.Signal(frame.Payload[0]))
		}
	}
}

func statusOf(program *exec.Cmd) int {
	status := program.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}
