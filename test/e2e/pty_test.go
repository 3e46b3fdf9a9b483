//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// person is somebody with a home, a daemon and a terminal.
type person struct {
	*testing.T
	env []string
}

func newPerson(t *testing.T) *person {
	t.Helper()
	env := &testscript.Env{WorkDir: t.TempDir()}
	// What a script gives back at its end is given back at the test's.
	if err := setupFor(env, t.Cleanup, t.Log); err != nil {
		t.Fatal(err)
	}
	return &person{t, env.Vars}
}

func (p *person) banger(args ...string) string {
	p.Helper()
	out, err := banger(p.env, args...).Output()
	if err != nil {
		p.Fatalf("banger %s: %v\n%s", strings.Join(args, " "), err, stderrOf(err))
	}
	return string(out)
}

func (p *person) states() map[string]string {
	p.Helper()
	var vms []struct{ Name, State string }
	if err := json.Unmarshal([]byte(p.banger("vm", "list", "--json")), &vms); err != nil {
		p.Fatal(err)
	}
	states := map[string]string{}
	for _, v := range vms {
		states[v.Name] = v.State
	}
	return states
}

// sitting is banger on a terminal, in the foreground.
type sitting struct {
	*person
	cmd      *exec.Cmd
	keyboard *os.File // the near end
	tty      *os.File // banger's end
	before   *term.State
	screen   *screen
}

func (p *person) sit(args ...string) *sitting {
	p.Helper()
	keyboard, tty, err := pty.Open()
	if err != nil {
		p.Fatal(err)
	}
	before, err := term.GetState(int(tty.Fd()))
	if err != nil {
		p.Fatal(err)
	}
	s := &sitting{person: p, cmd: banger(p.env, args...), keyboard: keyboard, tty: tty, before: before, screen: newScreen()}
	s.resize(30, 100)
	s.cmd.Env = append(s.cmd.Env, "TERM=vt100")
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = tty, tty, tty
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	go s.screen.readFrom(keyboard)
	p.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		tty.Close()
		keyboard.Close()
	})
	return s
}

func (s *sitting) resize(rows, cols uint16) {
	s.Helper()
	if err := pty.Setsize(s.keyboard, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		s.Fatal(err)
	}
}

func (s *sitting) types(keys string) {
	s.Helper()
	if _, err := s.keyboard.WriteString(keys); err != nil {
		s.Fatal(err)
	}
}

const ctrlC = "\x03"

// sees waits until the pattern is on the screen, and forgets it and all before
// it.
func (s *sitting) sees(pattern string) {
	s.Helper()
	if err := s.screen.await(regexp.MustCompile(pattern)); err != nil {
		s.Fatal(err)
	}
}

// ends waits for banger's end, with this status, and looks whether the terminal
// is as it was.
func (s *sitting) ends(status int) {
	s.Helper()
	limit := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	defer limit.Stop()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.Fatal(err)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != status {
		s.Errorf("banger ended with %d, want %d; on the screen: %q", got, status, s.screen.text())
	}
	after, err := term.GetState(int(s.tty.Fd()))
	if err != nil {
		s.Fatal(err)
	}
	if *after != *s.before {
		s.Errorf("the terminal is left as %+v, it was %+v", after, s.before)
	}
}

// screen is what has come to a terminal and was not awaited yet.
type screen struct {
	mu    sync.Mutex
	all   bytes.Buffer
	more  *sync.Cond
	ended bool
	late  bool
}

func newScreen() *screen {
	s := &screen{}
	s.more = sync.NewCond(&s.mu)
	return s
}

func (s *screen) readFrom(terminal *os.File) {
	chunk := make([]byte, 4096)
	for {
		n, err := terminal.Read(chunk)
		s.mu.Lock()
		s.all.Write(chunk[:n])
		s.ended = err != nil
		s.more.Broadcast()
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *screen) await(pattern *regexp.Regexp) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = false
	limit := time.AfterFunc(patience, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.late = true
		s.more.Broadcast()
	})
	defer limit.Stop()
	for {
		if at := pattern.FindIndex(s.all.Bytes()); at != nil {
			s.all.Next(at[1])
			return nil
		}
		if s.ended || s.late {
			return fmt.Errorf("no %q on the screen, but %q", pattern, s.all.Bytes())
		}
		s.more.Wait()
	}
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

func TestTerminal(t *testing.T) {
	p := newPerson(t)
	t.Run("a command has the terminal's size and keys", p.commandOnATerminal)
	t.Run("a second interrupt gives up", p.secondInterrupt)
	t.Run("the terminal outlives a daemon's death", p.daemonDies)
	t.Run("a shell, and the VM stays", p.shell)
	t.Run("a guest that stopped listening is left", p.wedged)
}

func on(p *person, t *testing.T) *person { return &person{t, p.env} }

func (p *person) commandOnATerminal(t *testing.T) {
	s := on(p, t).sit("vm", "run", "--rm", "-t", "--wait=agent", "--", "sh", "-c",
		`stty size; echo "it is $TERM"; trap 'echo caught; stty size; exit 7' INT; trap 'stty size' WINCH; echo up; while :; do sleep 0.1; done`)
	s.sees(`30 100\r\n`)
	s.sees(`it is vt100\r\n`)
	s.sees(`up\r\n`)
	s.resize(44, 91)
	s.sees(`44 91\r\n`)
	s.types(ctrlC)
	s.sees(`caught\r\n44 91\r\n`)
	s.ends(7)
	if left := on(p, t).states(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// secondInterrupt has a command that wants the terminal's line discipline to
// stay here, so that Ctrl-C is a signal to banger.
func (p *person) secondInterrupt(t *testing.T) {
	s := on(p, t).sit("vm", "run", "--rm", "-T", "--wait=agent", "--", "sh", "-c",
		`trap 'echo stubborn' INT; echo up; while :; do sleep 0.1; done`)
	s.sees(`up\r\n`)
	s.types(ctrlC)
	s.sees(`stubborn\r\n`)
	s.types(ctrlC)
	s.ends(130)
	if left := on(p, t).states(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func (p *person) daemonDies(t *testing.T) {
	s := on(p, t).sit("vm", "run", "--name=bereft", "-t", "--wait=agent", "--", "sh", "-c", "echo up; exec sleep 100000")
	s.sees(`up\r\n`)
	var status struct{ PID int }
	if err := json.Unmarshal([]byte(s.banger("daemon", "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.sees(`bangerd ended while the command ran in bereft`)
	s.ends(125)
	s.banger("vm", "delete", "bereft")
}

func (p *person) shell(t *testing.T) {
	s := on(p, t).sit("vm", "run", "--name=inhabited")
	s.sees(`root@inhabited:~# `)
	s.types("stty size; tty\r")
	s.sees(`30 100\r\n/dev/pts/\d`)
	s.resize(50, 120)
	s.types("while [ \"$(stty size)\" != '50 120' ]; do sleep 0.1; done; sh -c 'echo grown; exec sleep 100000'\r") // what prints is what Ctrl-C ends
	s.sees(`\r\n(.*\r)?grown\r\n`)
	s.types(ctrlC)
	s.sees(`root@inhabited:~# `)
	s.types("exit 0\r")
	s.sees("inhabited is still running: `banger vm ssh inhabited` enters it")
	s.ends(0)
	if state := s.states()["inhabited"]; state != "running" {
		t.Errorf("after its shell the VM is %q", state)
	}
	s.banger("vm", "delete", "inhabited")
}

// wedged stops the VMM under a command, a session and a shell, each on a
// terminal of its own. No key reaches the guest then, and more is typed than is
// kept for it on the way; each is left all the same, by the keys that it has for that.
func (p *person) wedged(t *testing.T) {
	p = on(p, t)
	p.banger("vm", "create", "--name=wedged", "--wait=agent")
	p.banger("vm", "session", "start", "wedged", "--wait=agent", "--name=cat", "--stdin-mode=pty", "--", "cat")
	seats := []*sitting{
		p.sit("vm", "exec", "--wait=agent", "wedged", "--", "cat"),
		p.sit("vm", "session", "attach", "wedged", "cat"),
		p.sit("vm", "ssh", "wedged", "-t", "--", "cat"),
	}
	for _, s := range seats {
		s.types("up\r")
		s.sees(`up\r\nup\r\n`)
	}
	var vm struct{ VMM struct{ PID int } }
	if err := json.Unmarshal([]byte(p.banger("vm", "show", "wedged", "--json")), &vm); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(vm.VMM.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	more := strings.Repeat("x", 2*proto.StdinWindow)
	seats[0].types(more + "\r~.")
	seats[0].sees("disconnected from wedged")
	seats[0].ends(130)
	seats[1].types(more + "\x10\x11")
	seats[1].sees("detached: `banger vm session attach wedged cat` comes back")
	seats[1].ends(0)
	seats[2].types("\r~.")
	seats[2].ends(255)
	p.banger("vm", "delete", "--force", "wedged")
}
