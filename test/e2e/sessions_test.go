//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/testenv"
)

// planner is a program that answers each line of JSON, as `pi --mode rpc` does.
const planner = `echo "$PLAN in $PWD" >&2; while read -r line; do printf '{"answer":%s}\n' "$line"; done; exit 4`

// TestSessions is the life of sessions in one guest, over the death of a
// bangerd.
func TestSessions(t *testing.T) {
	p := newPerson(t)
	p.banger("vm", "create", "--name=vm1", "--wait=agent")
	p.banger("vm", "exec", "--wait=agent", "vm1", "--", "mkdir", "-p", "/root/repo")
	if got := p.banger("vm", "session", "start", "--wait=agent", "vm1", "--name", "planner", "--cwd", "/root/repo", "--env", "PLAN=plan", "--stdin-mode", "pipe", "--", "sh", "-c", planner); got != "planner\n" {
		t.Fatalf("%q", got)
	}
	t.Run("two clients over the death of a bangerd", func(t *testing.T) { on(p, t).twoClients() })
	t.Run("what was printed and how it ended", func(t *testing.T) { on(p, t).afterwards() })
	t.Run("bad input", func(t *testing.T) { on(p, t).badSessions() })
	t.Run("a terminal", func(t *testing.T) { on(p, t).terminalSession() })
	t.Run("an editor's agent", func(t *testing.T) { on(p, t).editorsAgent() })
	p.banger("vm", "delete", "vm1")
	if left, err := os.ReadDir(filepath.Join(p.runtime(), "session")); err != nil || len(left) > 0 {
		t.Errorf("sockets are left: %v, %v", left, err)
	}
}

func (p *person) runtime() string {
	for _, v := range p.env {
		if dir, ok := strings.CutPrefix(v, "XDG_RUNTIME_DIR="); ok {
			return filepath.Join(dir, "banger")
		}
	}
	return ""
}

// session is what `vm session list` tells of one.
type session struct {
	Name, State, Stdin, Reason, Socket string
	Status                             *int
	Started, Ended                     time.Time
	LogEnd                             uint64 `json:"log_end"`
}

func (p *person) session(name string) session {
	p.Helper()
	var list []session
	if err := json.Unmarshal([]byte(p.banger("vm", "session", "list", "vm1", "--json")), &list); err != nil {
		p.Fatal(err)
	}
	for _, s := range list {
		if s.Name == name {
			return s
		}
	}
	p.Fatalf("no session %s in %+v", name, list)
	return session{}
}

// pipes is a program with pipes to it.
type pipes struct {
	*person
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func (p *person) pipes(cmd *exec.Cmd) *pipes {
	p.Helper()
	r := &pipes{person: p, cmd: cmd}
	var err error
	if r.stdin, err = cmd.StdinPipe(); err != nil {
		p.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	r.stdout = bufio.NewReader(out)
	cmd.Stderr = &r.stderr
	if err := cmd.Start(); err != nil {
		p.Fatal(err)
	}
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	p.Cleanup(func() { limit.Stop(); cmd.Process.Kill(); cmd.Wait() })
	return r
}

func (r *pipes) says(line string) {
	r.Helper()
	if _, err := io.WriteString(r.stdin, line+"\n"); err != nil {
		r.Fatal(err)
	}
}

func (r *pipes) hears(lines ...string) {
	r.Helper()
	for _, want := range lines {
		got, err := r.stdout.ReadString('\n')
		if err != nil || got != want+"\n" {
			r.Fatalf("%q came, want %q: %v\n%s", got, want, err, r.stderr.String())
		}
	}
}

// ends gives the exit status, after the input was closed.
func (r *pipes) ends() int {
	r.Helper()
	r.stdin.Close()
	rest, _ := io.ReadAll(r.stdout)
	r.cmd.Wait()
	if len(rest) > 0 {
		r.Errorf("%q came at the end", rest)
	}
	return r.cmd.ProcessState.ExitCode()
}

// socketClient is the example of docs/reference/sessions.md.
func (p *person) socketClient(path, from string) *pipes {
	p.Helper()
	text, err := os.ReadFile("../../docs/reference/sessions.md")
	if err != nil {
		p.Fatal(err)
	}
	_, program, ok := strings.Cut(string(text), "```python\n")
	program, _, more := strings.Cut(program, "```")
	if !ok || !more {
		p.Fatal("no example in docs/reference/sessions.md")
	}
	return p.pipes(exec.Command("python3", "-u", "-c", program, path, from))
}

func (p *person) twoClients() {
	socket := p.session("planner").Socket
	one := p.pipes(banger(p.env, "vm", "session", "attach", "--raw", "vm1", "planner"))
	two := p.socketClient(socket, "0")
	one.says(`{"from":"one"}`)
	one.hears(`{"answer":{"from":"one"}}`)
	two.hears(`{"answer":{"from":"one"}}`)
	two.says(`{"from":"two"}`)
	one.hears(`{"answer":{"from":"two"}}`)
	two.hears(`{"answer":{"from":"two"}}`)
	seen := p.session("planner").LogEnd

	var status struct{ PID int }
	if err := json.Unmarshal([]byte(p.banger("daemon", "status", "--json")), &status); err != nil {
		p.Fatal(err)
	}
	if err := syscall.Kill(status.PID, syscall.SIGKILL); err != nil {
		p.Fatal(err)
	}
	if err := testenv.AwaitEnd(status.PID, 10*time.Second); err != nil {
		p.Fatal(err)
	}
	if two.ends() != 0 {
		p.Errorf("the socket's client: %s", two.stderr.String())
	}
	// The one goes on by itself; the other comes back to the new socket.
	one.says(`{"after":"death"}`)
	one.hears(`{"answer":{"after":"death"}}`)
	if again := p.session("planner"); again.Socket != socket || again.State != "running" {
		p.Fatalf("%+v", again)
	}
	two = p.socketClient(socket, fmt.Sprint(seen))
	two.hears(`{"answer":{"after":"death"}}`)
	two.says(`{"from":"two again"}`)
	two.hears(`{"answer":{"from":"two again"}}`)
	one.hears(`{"answer":{"from":"two again"}}`)
	if status := one.ends(); status != 0 {
		p.Errorf("a raw bridge whose input ended: %d, %s", status, one.stderr.String())
	}
	if one.stderr.String() != "plan in /root/repo\n" {
		p.Errorf("standard error: %q", one.stderr.String())
	}
	// Lines of two clients at once come whole, when a client reads each of its
	// own whole: a pipe promises that for 4096 bytes.
	big := strings.Repeat("x", 4000)
	both := p.pipes(banger(p.env, "vm", "session", "attach", "vm1", "planner", "--tail=0"))
	both.says(`{"from":"both"}`)
	both.hears(`{"answer":{"from":"both"}}`) // it is attached, and misses nothing of what comes
	for range 5 {
		both.says(`{"a":"` + big + `"}`)
		two.says(`{"b":"` + big + `"}`)
		for range 2 {
			line, err := both.stdout.ReadString('\n')
			if err != nil || !json.Valid([]byte(line)) {
				p.Fatalf("%.100q: %v", line, err)
			}
		}
	}
	p.banger("vm", "session", "send", "vm1", "planner", "--eof", `"the last"`)
	both.hears(`{"answer":"the last"}`)
	if status := both.ends(); status != 4 {
		p.Errorf("the session's status went through as %d", status)
	}
}

func (p *person) afterwards() {
	s := p.session("planner")
	if s.State != "ended" || s.Status == nil || *s.Status != 4 || s.Ended.Before(s.Started) {
		p.Errorf("%+v", s)
	}
	if got := p.banger("vm", "session", "logs", "vm1", "planner", "--stream", "stderr"); got != "plan in /root/repo\n" {
		p.Errorf("%q", got)
	}
	out := p.banger("vm", "session", "logs", "-f", "vm1", "planner", "--stream=stdout", "--since=1h")
	if !strings.HasPrefix(out, `{"answer":{"from":"one"}}`+"\n") || !strings.HasSuffix(out, `{"answer":"the last"}`+"\n") {
		p.Errorf("%.200q", out)
	}
	if got := p.banger("vm", "session", "logs", "vm1", "planner", "--since=2100-01-01T00:00:00Z"); got != "" {
		p.Errorf("from the future: %q", got)
	}
	var all strings.Builder
	for line := range strings.Lines(p.banger("vm", "session", "logs", "vm1", "planner", "--stream=stdout", "--json")) {
		var piece struct{ Data string }
		if err := json.Unmarshal([]byte(line), &piece); err != nil {
			p.Fatal(err)
		}
		data, err := base64.StdEncoding.DecodeString(piece.Data)
		if err != nil {
			p.Fatal(err)
		}
		all.Write(data)
	}
	if all.String() != out {
		p.Errorf("as JSON %d bytes, else %d", all.Len(), len(out))
	}
}

// fails runs banger, which is to fail with a status and say something.
func (p *person) fails(status int, says string, args ...string) {
	p.Helper()
	out, err := banger(p.env, args...).CombinedOutput()
	var exit *exec.ExitError
	if !asExit(err, &exit) || exit.ExitCode() != status || !strings.Contains(string(out), says) {
		p.Errorf("banger %s: %v, %q, want %d and %q", strings.Join(args, " "), err, out, status, says)
	}
}

func (p *person) badSessions() {
	p.fails(4, "", "vm", "session", "wait", "vm1", "planner")
	p.fails(125, "has ended: with status 4", "vm", "session", "attach", "vm1", "planner")
	p.fails(125, `there is a session "planner" already`, "vm", "session", "start", "--wait=agent", "vm1", "--name=planner", "--", "true")
	p.fails(125, `there is no session "nobody"`, "vm", "session", "attach", "vm1", "nobody")
	p.fails(127, "no-such-program", "vm", "session", "start", "--wait=agent", "vm1", "--name=missing", "--", "no-such-program")
	p.fails(125, "cannot be a session's name", "vm", "session", "start", "--wait=agent", "vm1", "--name=../x", "--", "true")
	p.fails(125, "", "vm", "session", "start", "--wait=agent", "vm1", "--name=x", "--stdin-mode=tty", "--", "true")
	p.banger("vm", "session", "delete", "vm1", "planner")
	p.fails(125, `there is no session "planner"`, "vm", "session", "logs", "vm1", "planner")
}

func (p *person) terminalSession() {
	p.banger("vm", "session", "start", "--wait=agent", "vm1", "--name=screen", "--stdin-mode=pty", "--", "bash", "--norc", "-i")
	s := p.sit("vm", "session", "attach", "vm1", "screen")
	s.types("PS1='$ '; stty size; tty\r")
	s.sees(`30 100\r\n/dev/pts/\d`)
	s.types("\x10x\x7f")                                   // ctrl-p alone is for the program
	s.types("\x15sh -c 'echo begun; exec sleep 100000'\r") // the foreground job itself tells
	s.sees(`begun\r\n`)
	s.types(ctrlC)
	s.sees(`\^C[^$]*\$ `) // a key that comes before the prompt may be lost
	s.types("echo kept $((6*7))\r")
	s.sees(`kept 42\r\n`)
	s.types("\x10\x11")
	s.sees(`detached: .banger vm session attach vm1 screen. comes back`)
	s.ends(0)
	other := p.sit("vm", "session", "attach", "--detach-keys=ctrl-a,d", "vm1", "screen")
	other.sees(`kept 42\r\n`) // what it missed
	other.resize(44, 91)
	other.types("\x10\x11\x15while [ \"$(stty size)\" != '44 91' ]; do sleep 0.1; done; echo grown $((6*7))\r")
	other.sees(`grown 42\r\n`)
	other.types("exit 6\r")
	other.ends(6)
	if s := p.session("screen"); *s.Status != 6 {
		p.Errorf("%+v", s)
	}
	p.banger("vm", "session", "start", "--wait=agent", "vm1", "--name=stubborn", "--stdin-mode=null", "--", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done")
	p.pipes(banger(p.env, "vm", "session", "attach", "--no-stdin", "vm1", "stubborn")).hears("up")
	p.fails(125, "banger vm session stop ends one that runs", "vm", "session", "delete", "vm1", "stubborn")
	p.banger("vm", "session", "stop", "vm1", "stubborn", "--grace=100ms")
	if s := p.session("stubborn"); *s.Status != 128+9 {
		p.Errorf("%+v", s)
	}
	p.banger("vm", "session", "start", "--wait=agent", "vm1", "--name=forced", "--stdin-mode=null", "--", "sleep", "100000")
	p.banger("vm", "session", "delete", "--force", "vm1", "forced", "screen", "stubborn")
}

// editorsAgent bridges to a small JSON-RPC agent.
func (p *person) editorsAgent() {
	agent := `echo ready >&2; while read -r line; do printf '{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":1,"cwd":"%s"}}\n' "$PWD"; done`
	p.banger("vm", "exec", "--wait=agent", "vm1", "--", "sh", "-c", `printf '#!/bin/sh\n%s\n' "$1" > /usr/local/bin/opencode; chmod +x /usr/local/bin/opencode`, "-", agent)
	acp := p.pipes(banger(p.env, "vm", "acp", "--wait=agent", "vm1", "--cwd", "/root/repo"))
	acp.says(`{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":1}}`)
	acp.hears(`{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":1,"cwd":"/root/repo"}}`)
	if status := acp.ends(); status != 0 || acp.stderr.String() != "ready\n" {
		p.Errorf("%d, %q", status, acp.stderr.String())
	}
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	exact := banger(p.env, "vm", "acp", "--wait=agent", "vm1", "--agent", "cat")
	exact.Stdin = bytes.NewReader(sent)
	if got, err := exact.Output(); err != nil || !bytes.Equal(got, sent) {
		p.Errorf("%d bytes came back of %d: %v", len(got), len(sent), err)
	}
	ended := banger(p.env, "vm", "acp", "--wait=agent", "vm1", "--agent", "sh -c 'exit 3'")
	stays, hold, err := os.Pipe() // its client does not end
	if err != nil {
		p.Fatal(err)
	}
	defer stays.Close()
	defer hold.Close()
	ended.Stdin = stays
	if err := ended.Run(); ended.ProcessState.ExitCode() != 3 {
		p.Errorf("an agent that ended: %v", err)
	}
	p.fails(127, "install the agent", "vm", "acp", "--wait=agent", "vm1", "--agent", "no-such-agent")
}
