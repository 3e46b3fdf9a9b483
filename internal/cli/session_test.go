package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"
)

// home is a user of their own, whose daemon ends with the test.
type home struct {
	t   *testing.T
	env []string
	dir string
}

func newHome(t *testing.T) home {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	h := home{t, append(os.Environ(), "HOME="+dir, "XDG_RUNTIME_DIR="+dir, "TERM=vt100", "GORACE="+quickExit), dir}
	t.Cleanup(func() {
		h.run("daemon", "stop")
		os.RemoveAll(dir)
	})
	return h
}

func (h home) command(args ...string) *exec.Cmd {
	c := exec.Command("banger", args...)
	c.Env = h.env
	c.Dir = h.dir
	return c
}

// run runs banger to its end and gives what it printed.
func (h home) run(args ...string) string {
	h.t.Helper()
	out, err := h.command(args...).CombinedOutput()
	if err != nil {
		h.t.Errorf("banger %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// begin starts banger and returns when it has printed the line "up".
func (h home) begin(args ...string) (*exec.Cmd, *bufio.Reader) {
	h.t.Helper()
	c := h.command(args...)
	stdout, err := c.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		h.t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	awaitLine(h.t, lines, "up")
	return c, lines
}

// awaitLine reads to a line that has the text.
func awaitLine(t *testing.T, lines *bufio.Reader, text string) string {
	t.Helper()
	var all strings.Builder
	for {
		line, err := lines.ReadString('\n')
		all.WriteString(line)
		if strings.Contains(line, text) {
			return line
		}
		if err != nil {
			t.Fatalf("no line with %q, but %q: %v", text, all.String(), err)
		}
	}
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		t.Fatal(err)
	}
	if exited == nil {
		return 0
	}
	return exited.ExitCode()
}

// untilGone is the end of a script that nobody ends: it lives as long as the
// test's directory, its first argument.
const untilGone = `while [ -e "$1" ]; do sleep 0.05; done`

func TestFirstSignalReachesTheCommand(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			h := newHome(t)
			c, lines := h.begin("vm", "run", "--rm", "--", "sh", "-c", `trap 'echo caught; exit 9' INT TERM; echo up; while :; do sleep 0.05; done`)
			if err := c.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			awaitLine(t, lines, "caught")
			if code := exitCode(t, c.Wait()); code != 9 {
				t.Errorf("exit status %d, want the command's 9", code)
			}
			if list := h.run("vm", "list", "--json"); list != "[]\n" {
				t.Errorf("left: %s", list)
			}
		})
	}
}

func TestSecondInterruptGivesUp(t *testing.T) {
	h := newHome(t)
	c, lines := h.begin("vm", "run", "--rm", "--", "sh", "-c", `trap 'echo stubborn' INT; echo up; while :; do sleep 0.05; done`)
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, lines, "stubborn")
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
	if list := h.run("vm", "list", "--json"); list != "[]\n" {
		t.Errorf("left: %s", list)
	}
}

func TestKilledClientLeavesNothing(t *testing.T) {
	h := newHome(t)
	ended := filepath.Join(h.dir, "ended")
	if err := syscall.Mkfifo(ended, 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ := h.begin("vm", "run", "--rm", "--", "sh", "-c", `trap 'echo hup > `+ended+`; exit' HUP; echo up; while :; do sleep 0.05; done`)
	if err := c.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if word, err := os.ReadFile(ended); err != nil || string(word) != "hup\n" {
		t.Errorf("the command was told %q, %v", word, err)
	}
}

func TestDaemonThatDiesUnderACommand(t *testing.T) {
	h := newHome(t)
	h.run("vm", "create", "--name", "a")
	c := h.command("vm", "exec", "a", "--", "sh", "-c", "kill -9 $PPID; "+untilGone, "sh", h.dir)
	out, err := c.CombinedOutput()
	if code := exitCode(t, err); code != 125 {
		t.Errorf("exit status %d, want 125", code)
	}
	for _, want := range []string{"bangerd ended while the command ran in a", "`banger vm show a`", "`banger daemon logs`"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("%q lacks %q", out, want)
		}
	}
}

func TestDaemonLogsFollow(t *testing.T) {
	h := newHome(t)
	h.run("vm", "list")
	c := h.command("daemon", "logs", "-f")
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	awaitLine(t, lines, "listening")
	log, err := os.OpenFile(filepath.Join(h.dir, ".local/state/banger/bangerd.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, part := range []string{"half a ", "line\n"} {
		if _, err := log.WriteString(part); err != nil {
			t.Fatal(err)
		}
	}
	if line := awaitLine(t, lines, "line"); line != "half a line\n" {
		t.Errorf("got %q", line)
	}
	if err := c.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, c.Wait()); code != 130 {
		t.Errorf("exit status %d, want 130", code)
	}
}

// onTerminal starts banger on a terminal of its own.
func (h home) onTerminal(args ...string) (*exec.Cmd, *os.File) {
	h.t.Helper()
	c := h.command(args...)
	terminal, err := pty.StartWithSize(c, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { terminal.Close() })
	return c, terminal
}

func TestTerminal(t *testing.T) {
	h := newHome(t)
	h.run("vm", "create", "--name", "a")
	c, terminal := h.onTerminal("vm", "exec", "a", "--", "sh", "-c",
		`stty size; echo $TERM; trap 'echo interrupted' INT; trap 'stty size; exit 3' WINCH; echo up; while :; do sleep 0.05; done`)
	lines := bufio.NewReader(terminal)
	if size := awaitLine(t, lines, "30"); !strings.Contains(size, "30 100") {
		t.Errorf("size is %q", size)
	}
	awaitLine(t, lines, "vt100")
	awaitLine(t, lines, "up")
	// Ctrl-C is a key of the guest's terminal, not a signal to banger.
	if _, err := terminal.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, lines, "interrupted")
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 40, Cols: 90}); err != nil {
		t.Fatal(err)
	}
	awaitLine(t, lines, "40 90")
	io.Copy(io.Discard, lines)
	if code := exitCode(t, c.Wait()); code != 3 {
		t.Errorf("exit status %d, want 3", code)
	}
}

func TestTerminalIsRestored(t *testing.T) {
	tests := []struct {
		name   string
		script string
		end    func(t *testing.T, c *exec.Cmd, keys io.Writer)
	}{
		{"after the command", "echo up", nil},
		{"after a signal", "trap '' TERM HUP; echo up; " + untilGone, func(t *testing.T, c *exec.Cmd, _ io.Writer) {
			for range 2 {
				if err := c.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.Process.Signal(syscall.SIGHUP); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatal(err)
			}
		}},
		{"after the daemon's death", "echo up; read key; kill -9 $PPID; " + untilGone, func(t *testing.T, _ *exec.Cmd, keys io.Writer) {
			if _, err := keys.Write([]byte("\n")); err != nil {
				t.Fatal(err)
			}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHome(t)
			h.run("vm", "create", "--name", "a")
			mine, theirs, err := pty.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer mine.Close()
			defer theirs.Close()
			before, err := term.GetState(int(theirs.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			c := h.command("vm", "exec", "a", "--", "sh", "-c", test.script, "sh", h.dir)
			c.Stdin, c.Stdout, c.Stderr = theirs, theirs, theirs
			c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			awaitLine(t, bufio.NewReader(mine), "up")
			go io.Copy(io.Discard, mine)
			if test.end != nil {
				test.end(t, c, mine)
			}
			c.Wait()
			after, err := term.GetState(int(theirs.Fd()))
			if err != nil {
				t.Fatal(err)
			}
			if *before != *after {
				t.Errorf("the terminal was left as %+v, it was %+v", after, before)
			}
		})
	}
}

func TestShellOnATerminalSaysThatTheVMStays(t *testing.T) {
	h := newHome(t)
	c, terminal := h.onTerminal("vm", "run", "--name", "a", "--", "true")
	out, _ := io.ReadAll(terminal)
	if code := exitCode(t, c.Wait()); code != 0 {
		t.Errorf("exit status %d: %s", code, out)
	}
	if !strings.Contains(string(out), "a is still running: `banger vm ssh a` enters it") {
		t.Errorf("got %q", out)
	}
}
