package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// ended is what a command did.
type ended struct {
	status         int
	stdout, stderr string
	err            error
}

// run runs a command to its end, with stdin as its input.
func (g guest) run(t *testing.T, e proto.Exec, stdin string) ended {
	t.Helper()
	conn, err := g.Exec(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var stdout, stderr bytes.Buffer
	status, err := proto.NewCommand(conn).Run(strings.NewReader(stdin), &stdout, &stderr)
	return ended{status, stdout.String(), stderr.String(), err}
}

func shell(script string) proto.Exec { return proto.Exec{Argv: []string{"sh", "-c", script}, Cwd: "/"} }

func TestExec(t *testing.T) {
	g := start(t, proto.InitNone)
	for _, test := range []struct {
		script, stdin string
		want          ended
	}{
		{"exit 7", "", ended{status: 7}},
		{"echo out; echo err >&2", "", ended{stdout: "out\n", stderr: "err\n"}},
		{"cat; exit 3", "a\x00b\xff\n", ended{status: 3, stdout: "a\x00b\xff\n"}},
		{"kill -TERM $$", "", ended{status: 128 + 15}},
		{"kill -KILL $$", "", ended{status: 128 + 9}},
		{"pwd; echo $USER $LANG", "", ended{stdout: "/\nroot C.UTF-8\n"}},
		// What was left behind holds the output open; it must not keep the command.
		{"sleep 1000 & echo $!", "", ended{}},
		{"exec 0<&-; exit 4", strings.Repeat("x", 1<<20), ended{status: 4}},
	} {
		got := g.run(t, shell(test.script), test.stdin)
		if strings.HasSuffix(test.script, "$!") {
			pid, err := strconv.Atoi(strings.TrimSpace(got.stdout))
			if err != nil || syscall.Kill(pid, 0) != nil {
				t.Errorf("%s: what it left behind is gone: %+v", test.script, got)
			}
			syscall.Kill(pid, syscall.SIGKILL)
			got.stdout = ""
		}
		if got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.script, got, test.want)
		}
	}
}

func TestExecThatNeverRuns(t *testing.T) {
	g := start(t, proto.InitNone)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "plain"), "text")
	write(t, filepath.Join(dir, "orphan"), "#!/no/such/interpreter\n")
	os.Chmod(filepath.Join(dir, "orphan"), 0o755)
	write(t, filepath.Join(dir, "script"), "exit 5\n")
	os.Chmod(filepath.Join(dir, "script"), 0o755)
	for _, test := range []struct {
		exec   proto.Exec
		kind   proto.ExecErrorKind
		status int
	}{
		{proto.Exec{Argv: []string{"no-such-program"}}, proto.ExecNoProgram, 127},
		{proto.Exec{Argv: []string{"./no-such-program"}, Cwd: dir}, proto.ExecNoProgram, 127},
		{proto.Exec{Argv: []string{dir}}, proto.ExecCannot, 126},
		{proto.Exec{Argv: []string{"./plain"}, Cwd: dir}, proto.ExecCannot, 126},
		{proto.Exec{Argv: []string{"plain"}, Env: map[string]string{"PATH": dir}}, proto.ExecCannot, 126},
		{proto.Exec{Argv: []string{"./orphan"}, Cwd: dir}, proto.ExecCannot, 126},
		{proto.Exec{Argv: []string{"true"}, Cwd: "/no/such/directory"}, proto.ExecNoDirectory, 126},
	} {
		got := g.run(t, test.exec, "")
		var e *proto.ExecError
		if !errors.As(got.err, &e) || e.Kind != test.kind || e.Status() != test.status || e.Message == "" {
			t.Errorf("%v: %+v", test.exec.Argv, got)
		}
	}
	if got := g.run(t, proto.Exec{Argv: []string{"./script"}, Cwd: dir}, ""); got.status != 5 || got.err != nil {
		t.Errorf("a script without a first line: %+v", got)
	}
	if _, err := g.Exec(t.Context(), proto.Exec{}); err == nil {
		t.Error("a command without a program was accepted")
	}
}

// TestExecEnvironment looks at what a command is given.
func TestExecEnvironment(t *testing.T) {
	g := start(t, proto.InitNone)
	write(t, filepath.Join(g.root, "etc/passwd"), "daemon:x:1:1::/:/bin/false\nroot:x:0:0:root:/home/r:/bin/bash\n")
	write(t, filepath.Join(g.root, "etc/environment"), "PATH=\"/image/bin:/bin:/usr/bin\"\n# comment\nIMAGE='yes'\nA=image\n")
	if err := g.Configure(t.Context(), proto.Config{Env: map[string]string{"https_proxy": "http://p:1", "A": "config"}}); err != nil {
		t.Fatal(err)
	}
	got := g.run(t, proto.Exec{Argv: []string{"env"}, Cwd: "/", Env: map[string]string{"B": "asked"}}, "")
	for _, want := range []string{"PATH=/home/r/.local/share/mise/shims:/image/bin:/bin:/usr/bin", "IMAGE=yes", "A=config", "B=asked", "https_proxy=http://p:1", "HOME=/home/r", "SHELL=/bin/sh"} {
		if !strings.Contains("\n"+got.stdout, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got.stdout)
		}
	}
	// Standard input and output are ordinary blocking pipes.
	got = g.run(t, shell("cat /proc/self/fdinfo/0 /proc/self/fdinfo/1 | grep flags"), "")
	if got.stdout != "flags:\t00\nflags:\t01\n" {
		t.Errorf("descriptors of a command:\n%s", got.stdout)
	}
}

// live is a command whose output a test reads while it runs.
type live struct {
	*proto.Command
	conn   net.Conn
	lines  *bufio.Reader
	stdin  *io.PipeWriter
	status chan ended
}

func (g guest) live(t *testing.T, e proto.Exec) *live {
	t.Helper()
	conn, err := g.Exec(t.Context(), e)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	in, stdin := io.Pipe()
	out, stdout := io.Pipe()
	l := &live{Command: proto.NewCommand(conn), conn: conn, lines: bufio.NewReader(out), stdin: stdin, status: make(chan ended, 1)}
	go func() {
		status, err := l.Run(in, stdout, stdout)
		stdout.Close()
		l.status <- ended{status: status, err: err}
	}()
	return l
}

// until reads lines up to one that contains text, and returns that.
func (l *live) until(t *testing.T, text string) string {
	t.Helper()
	for {
		line, err := l.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no %q: %v", text, err)
		}
		if strings.Contains(line, text) {
			return strings.TrimSpace(line)
		}
	}
}

// end reads the rest of the output and returns how the command ended.
func (l *live) end() ended {
	go io.Copy(io.Discard, l.lines)
	return <-l.status
}

func TestSignals(t *testing.T) {
	g := start(t, proto.InitNone)
	for _, terminal := range []bool{false, true} {
		e := shell("trap 'echo got it; exit 9' USR1; echo ready; while :; do read x; done")
		e.TTY = terminal
		l := g.live(t, e)
		l.until(t, "ready")
		if err := l.Signal(int(syscall.SIGUSR1)); err != nil {
			t.Fatal(err)
		}
		l.until(t, "got it")
		if got := l.end(); got.status != 9 || got.err != nil {
			t.Fatalf("terminal %v: %+v", terminal, got)
		}
	}
}

// TestSignalPastInput sends more input than a command reads: signals must not
// be stuck behind it.
func TestSignalPastInput(t *testing.T) {
	g := start(t, proto.InitNone)
	l := g.live(t, shell("echo ready; exec sleep 1000"))
	l.until(t, "ready")
	go io.Copy(l.stdin, zeros{})
	if err := l.Signal(int(syscall.SIGINT)); err != nil {
		t.Fatal(err)
	}
	if got := l.end(); got.status != 128+int(syscall.SIGINT) {
		t.Fatalf("%+v", got)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestTerminal(t *testing.T) {
	g := start(t, proto.InitNone)
	l := g.live(t, proto.Exec{Argv: []string{"bash", "--norc", "-i"}, Cwd: "/", TTY: true, Rows: 31, Cols: 97})
	fmt.Fprintln(l.stdin, "PS1=; stty size; tty; echo $TERM")
	l.until(t, "31 97")
	l.until(t, "/dev/pts/")
	l.until(t, "xterm-256color")
	if err := l.Resize(40, 120); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l.stdin, "stty size")
	l.until(t, "40 120")
	fmt.Fprintln(l.stdin, "sh -c 'echo fore''ground; exec sleep 1000'")
	l.until(t, "foreground\r")
	// The signal is for the foreground job, which has a group of its own.
	if err := l.Signal(int(syscall.SIGINT)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l.stdin, "echo status $?")
	l.until(t, "status 130")
	fmt.Fprintln(l.stdin, "exit 6")
	if got := l.end(); got.status != 6 || got.err != nil {
		t.Fatalf("%+v", got)
	}
	// The end of input is what a terminal takes for it.
	if got := g.run(t, proto.Exec{Argv: []string{"cat"}, Cwd: "/", TTY: true}, "x\n"); got.status != 0 || got.stdout != "x\r\nx\r\n" {
		t.Fatalf("%+v", got)
	}
	// What was left behind holds the terminal open; it must not keep the command.
	got := g.run(t, proto.Exec{Argv: []string{"sh", "-c", "trap '' HUP; sleep 1000 & echo $!"}, Cwd: "/", TTY: true}, "")
	pid, err := strconv.Atoi(strings.TrimSpace(got.stdout))
	if err != nil {
		t.Fatalf("%+v", got)
	}
	syscall.Kill(pid, syscall.SIGKILL)
}

// TestClientGone kills a client, and sees what becomes of its command.
func TestClientGone(t *testing.T) {
	g := start(t, proto.InitNone)
	fifo := filepath.Join(t.TempDir(), "told")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l := g.live(t, proto.Exec{Cwd: "/", Argv: []string{"bash", "-c", `
		echo "detached $(setsid sh -c 'echo $$; exec sleep 1000 >/dev/null 2>&1' </dev/null &)"
		trap 'echo hung up >` + fifo + `; exit' HUP
		echo ready
		while :; do sleep 0.01; done`}})
	pid, err := strconv.Atoi(strings.TrimPrefix(l.until(t, "detached"), "detached "))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGKILL)
	l.until(t, "ready")
	l.conn.Close()
	if told := read(t, fifo); told != "hung up\n" {
		t.Fatalf("%q", told)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("what detached itself is gone: %v", err)
	}
}

// TestGigabyteOut moves 1 GiB of output to a client with a flat heap.
func TestGigabyteOut(t *testing.T) {
	g := start(t, proto.InitNone)
	conn, err := g.Exec(t.Context(), shell("head -c 1073741824 /dev/zero"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var count counter
	before, started := heap(), time.Now()
	status, err := proto.NewCommand(conn).Run(nil, &count, io.Discard)
	if status != 0 || err != nil || count != 1<<30 {
		t.Fatal(status, err, count)
	}
	t.Logf("%.0f MB/s", float64(count)/1e6/time.Since(started).Seconds())
	if grown := heap() - before; grown > 64<<20 {
		t.Fatalf("the heap grew by %d MiB", grown>>20)
	}
}

// heap is what the process has taken of memory for its heap, also for the tests
// before: it does not give it back.
func heap() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapSys)
}

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// TestOutputOfTheLastMoment has a command fill its pipe and end: all of it must
// come, although the client reads late and something holds the pipe open.
func TestOutputOfTheLastMoment(t *testing.T) {
	g := start(t, proto.InitNone)
	sleeper := make(chan int, 1)
	for range 4 {
		got := g.run(t, shell("sleep 1000 & echo $! >&2; head -c 65000 /dev/zero"), "")
		pid, err := strconv.Atoi(strings.TrimSpace(got.stderr))
		if err != nil {
			t.Fatal(err)
		}
		sleeper <- pid
		syscall.Kill(<-sleeper, syscall.SIGKILL)
		if len(got.stdout) != 65000 {
			t.Fatalf("%d bytes came", len(got.stdout))
		}
	}
}

func BenchmarkExecTrue(b *testing.B) {
	path, err := exec.LookPath("true")
	if err != nil {
		b.Fatal(err)
	}
	g := start(b, proto.InitNone)
	for b.Loop() {
		conn, err := g.Exec(context.Background(), proto.Exec{Argv: []string{path}, Cwd: "/"})
		if err != nil {
			b.Fatal(err)
		}
		if status, err := proto.NewCommand(conn).Run(nil, io.Discard, io.Discard); status != 0 || err != nil {
			b.Fatal(status, err)
		}
		conn.Close()
	}
}
