package agent_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/testenv"
)

// session starts a session of a shell.
func (g guest) session(t *testing.T, name, script string, stdin proto.StdinMode) proto.Session {
	t.Helper()
	s, err := g.StartSession(t.Context(), proto.SessionSpec{Name: name, Argv: []string{"bash", "-c", script}, Cwd: "/", Stdin: stdin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		g.SignalSession(ctx, proto.SessionSignal{Name: name, Signal: 9})
		g.WaitSession(ctx, name)
	})
	return s
}

func (g guest) connect(ctx context.Context, want proto.Attach) (io.ReadWriteCloser, proto.Attached, error) {
	return g.AttachSession(ctx, want)
}

// client is an attached one, whose output is read line by line.
type client struct {
	*proto.Attachment
	lines *bufio.Reader
	lost  uint64
	err   error
}

func (g guest) attach(t *testing.T, want proto.Attach) *client {
	t.Helper()
	a, err := proto.OpenAttachment(t.Context(), want, g.connect)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return follow(a)
}

func follow(a *proto.Attachment) *client {
	out, in := io.Pipe()
	c := &client{Attachment: a, lines: bufio.NewReader(out)}
	go func() {
		for {
			o, err := a.Next()
			if err != nil {
				c.err = err
				in.Close()
				return
			}
			c.lost += o.Lost
			in.Write(o.Data)
		}
	}()
	return c
}

// sees reads up to a line that contains text.
func (c *client) sees(t *testing.T, text string) {
	t.Helper()
	before := ""
	for {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			t.Fatalf("no %q after %q: %v", text, before, c.err)
		}
		if strings.Contains(line, text) {
			return
		}
		before = line
	}
}

// rest reads to the session's end.
func (c *client) rest(t *testing.T) string {
	t.Helper()
	text, err := io.ReadAll(c.lines)
	if err != nil || !errors.Is(c.err, io.EOF) {
		t.Fatal(err, c.err)
	}
	return string(text)
}

func kindOf(err error) proto.ErrorKind {
	var e *proto.Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

func TestSessionLife(t *testing.T) {
	g := start(t, proto.InitNone)
	s := g.session(t, "planner", "echo hello; echo trouble >&2; read line; echo got $line; exit 7", proto.StdinPipe)
	if s.State != proto.SessionRunning || s.PID == 0 || s.Started.IsZero() || s.Cwd != "/" {
		t.Fatalf("%+v", s)
	}
	if _, err := g.StartSession(t.Context(), proto.SessionSpec{Name: "planner", Argv: []string{"true"}, Stdin: proto.StdinNull}); kindOf(err) != proto.ErrorExists || !strings.Contains(err.Error(), "it runs") {
		t.Fatal(err)
	}
	if err := g.DeleteSession(t.Context(), "planner"); kindOf(err) != proto.ErrorWrongState {
		t.Fatal(err)
	}
	c := g.attach(t, proto.Attach{Name: "planner", Client: "a"})
	c.sees(t, "hello")
	fmt.Fprintln(c, "the line")
	c.sees(t, "got the line")
	c.rest(t)
	end, err := g.WaitSession(t.Context(), "planner")
	if err != nil || end.State != proto.SessionEnded || end.Status == nil || *end.Status != 7 || end.Ended.Before(end.Started) || end.PID != 0 || end.LogEnd != 6+8+13 {
		t.Fatalf("%+v, %v", end, err)
	}
	if told := c.Session(); *told.Status != 7 || !told.Ended.Equal(end.Ended) {
		t.Fatalf("%+v", told)
	}
	// An ended one is not attached to, but its output is there.
	_, _, err = g.AttachSession(t.Context(), proto.Attach{Name: "planner"})
	if kindOf(err) != proto.ErrorWrongState || !strings.Contains(err.Error(), "has ended: with status 7") {
		t.Fatal(err)
	}
	for _, past := range []bool{false, true} {
		for stream, want := range map[byte]string{'o': "hello\ngot the line\n", 'e': "trouble\n"} {
			if got := g.attach(t, proto.Attach{Name: "planner", Stream: stream, Ended: true, Past: past}).rest(t); got != want {
				t.Errorf("stream %q: %q", stream, got)
			}
		}
		// Two pipes are in no order.
		if got := g.attach(t, proto.Attach{Name: "planner", Ended: true, Past: past}).rest(t); len(got) != 27 {
			t.Errorf("both streams: %q", got)
		}
	}
	if got := g.attach(t, proto.Attach{Name: "planner", Ended: true, Since: end.Ended.Add(time.Second)}).rest(t); got != "" {
		t.Errorf("younger than its end: %q", got)
	}
	tail := uint64(5)
	if got := g.attach(t, proto.Attach{Name: "planner", Ended: true, Tail: &tail}).rest(t); len(got) != 5 {
		t.Errorf("tail: %q", got)
	}
	for _, err := range []error{
		g.SendSession(t.Context(), proto.SessionInput{Name: "planner", Data: []byte("x")}),
		g.SignalSession(t.Context(), proto.SessionSignal{Name: "planner", Signal: 15}),
		g.StopSession(t.Context(), proto.SessionStop{Name: "planner"}),
	} {
		if kindOf(err) != proto.ErrorWrongState {
			t.Error(err)
		}
	}
	if _, err := g.StartSession(t.Context(), proto.SessionSpec{Name: "planner", Argv: []string{"true"}, Stdin: proto.StdinNull}); kindOf(err) != proto.ErrorExists || !strings.Contains(err.Error(), "has ended") {
		t.Fatal(err)
	}
	if err := g.DeleteSession(t.Context(), "planner"); err != nil {
		t.Fatal(err)
	}
	if list, err := g.Sessions(t.Context()); err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
	if entries, err := os.ReadDir(filepath.Join(g.root, "var/lib/banger/sessions")); err != nil || len(entries) > 0 {
		t.Fatal(entries, err)
	}
	if _, err := g.WaitSession(t.Context(), "planner"); kindOf(err) != proto.ErrorNotFound {
		t.Fatal(err)
	}
}

func TestSessionThatNeverRuns(t *testing.T) {
	g := start(t, proto.InitNone)
	for _, test := range []struct {
		spec proto.SessionSpec
		kind proto.ErrorKind
	}{
		{proto.SessionSpec{Name: "a", Argv: []string{"no-such-program"}, Stdin: proto.StdinPipe}, proto.ErrorNoProgram},
		{proto.SessionSpec{Name: "a", Argv: []string{"/"}, Stdin: proto.StdinPipe}, proto.ErrorCannotExec},
		{proto.SessionSpec{Name: "a", Argv: []string{"true"}, Cwd: "/no/such", Stdin: proto.StdinPipe}, proto.ErrorCannotExec},
		{proto.SessionSpec{Name: "a", Stdin: proto.StdinPipe}, proto.ErrorBadRequest},
		{proto.SessionSpec{Name: "a", Argv: []string{"true"}, Stdin: "tty"}, proto.ErrorBadRequest},
		{proto.SessionSpec{Name: "a", Argv: []string{"true"}, Stdin: proto.StdinPipe, LogLimit: -1}, proto.ErrorBadRequest},
		{proto.SessionSpec{Name: "../a", Argv: []string{"true"}, Stdin: proto.StdinPipe}, proto.ErrorBadRequest},
		{proto.SessionSpec{Name: "", Argv: []string{"true"}, Stdin: proto.StdinPipe}, proto.ErrorBadRequest},
	} {
		if _, err := g.StartSession(t.Context(), test.spec); kindOf(err) != test.kind {
			t.Errorf("%+v: %v", test.spec, err)
		}
	}
	if list, err := g.Sessions(t.Context()); err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
}

// answering is a program that answers each line of JSON, as a coding agent does.
const answering = `while read -r line; do echo "{\"answer\":$line}"; done; echo "{\"bye\":true}"`

// TestTwoClients drives one program from two sides: each line comes whole, and
// both see all.
func TestTwoClients(t *testing.T) {
	g := start(t, proto.InitNone)
	g.session(t, "both", answering, proto.StdinPipe)
	const lines = 200
	var clients sync.WaitGroup
	logs := [2]string{}
	for i := range logs {
		c := g.attach(t, proto.Attach{Name: "both", Client: fmt.Sprint("client", i)})
		clients.Go(func() {
			for n := range lines {
				fmt.Fprintf(c, `{"client":%d,"line":%d,"filler":"%s"}`+"\n", i, n, strings.Repeat("x", n*10))
			}
		})
		clients.Go(func() {
			logs[i] = c.rest(t)
			if c.lost > 0 {
				t.Errorf("%d bytes are lost", c.lost)
			}
		})
	}
	watcher := g.attach(t, proto.Attach{Name: "both"})
	seen := 0
	for seen < 2*lines {
		line, err := watcher.lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var answer struct{ Answer struct{ Client, Line int } }
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%.100q: %v", line, err)
		}
		seen++
	}
	if err := g.SendSession(t.Context(), proto.SessionInput{Name: "both", EOF: true}); err != nil {
		t.Fatal(err)
	}
	watcher.sees(t, "bye")
	clients.Wait()
	if logs[0] != logs[1] || strings.Count(logs[0], "\n") != 2*lines+1 {
		t.Fatalf("%d and %d bytes", len(logs[0]), len(logs[1]))
	}
}

// TestLostConnections has a client whose connections break again and again, in
// the middle of anything: what its command gets and what it gets is exact.
func TestLostConnections(t *testing.T) {
	g := start(t, proto.InitNone)
	g.session(t, "echo", "cat", proto.StdinPipe)
	breaks := 0
	connect := func(ctx context.Context, want proto.Attach) (io.ReadWriteCloser, proto.Attached, error) {
		conn, answer, err := g.AttachSession(ctx, want)
		if err != nil {
			return nil, answer, err
		}
		breaks++
		return &brittle{Conn: conn, in: 70_000 * breaks % 500_000, out: 110_000 * breaks % 700_000}, answer, nil
	}
	a, err := proto.OpenAttachment(t.Context(), proto.Attach{Name: "echo", Client: "a"}, connect)
	if err != nil {
		t.Fatal(err)
	}
	sent := make([]byte, 8<<20)
	rand.Read(sent)
	go func() {
		if _, err := a.Write(sent); err != nil {
			t.Error(err)
		}
	}()
	var got []byte
	for len(got) < len(sent) {
		o, err := a.Next()
		if err != nil {
			t.Fatal(err)
		}
		if o.Lost > 0 {
			t.Fatalf("%d bytes are lost", o.Lost)
		}
		got = append(got, o.Data...)
	}
	if !bytes.Equal(got, sent) {
		t.Fatal("other bytes came back than were sent")
	}
	if breaks < 10 {
		t.Fatalf("%d connections", breaks)
	}
	a.Close()
	// Of a client that it knows, the agent tells what came; of others nothing.
	for name, want := range map[string]uint64{"a": 8 << 20, "b": 0} {
		conn, answer, err := g.AttachSession(t.Context(), proto.Attach{Name: "echo", Client: name})
		if err != nil || answer.Accepted != want {
			t.Fatalf("%+v, %v", answer, err)
		}
		conn.Close()
	}
}

// brittle is a connection that breaks after so many bytes.
type brittle struct {
	net.Conn
	mu      sync.Mutex
	in, out int
}

func (b *brittle) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.in -= n; b.in < 0 {
		b.Conn.Close()
		return max(n+b.in, 0), io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *brittle) Write(p []byte) (int, error) {
	b.mu.Lock()
	left := b.out
	b.out -= len(p)
	b.mu.Unlock()
	if left < len(p) {
		b.Conn.Write(p[:max(left, 0)])
		b.Conn.Close()
		return max(left, 0), io.ErrClosedPipe
	}
	return b.Conn.Write(p)
}

// TestClientThatStopsReading has one client that reads nothing beside one that
// does, and a command that prints far more than is kept.
func TestClientThatStopsReading(t *testing.T) {
	g, before := start(t, proto.InitNone), heap()
	const printed = 16 << 20
	spec := proto.SessionSpec{Name: "flood", Cwd: "/", Stdin: proto.StdinPipe, LogLimit: 1 << 20,
		Argv: []string{"bash", "-c", fmt.Sprintf("read go; yes %s | head -c %d; echo; echo done; read on", strings.Repeat("x", 1000), printed)}}
	if _, err := g.StartSession(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	stuck, _, err := g.AttachSession(t.Context(), proto.Attach{Name: "flood", Client: "stuck"})
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	// It sends more than it may, too.
	go func() {
		w := proto.NewWriter(stuck)
		for w.Frame(proto.TypeStdin, make([]byte, proto.MaxData)) == nil {
		}
	}()
	c := g.attach(t, proto.Attach{Name: "flood", Client: "reader"})
	fmt.Fprintln(c, "go")
	c.sees(t, "done")
	if grown := heap() - before; grown > 100<<20 {
		t.Fatalf("the heap grew by %d MiB", grown>>20)
	}
	if used := diskOf(t, filepath.Join(g.root, "var/lib/banger/sessions/flood/log")); used > 1<<20 {
		t.Fatalf("%d bytes on disk", used)
	}
	// The stuck one learns what it missed.
	frames := proto.NewReader(stuck)
	read, lost := 0, uint64(0)
	for lost == 0 {
		f, err := frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		switch f.Type {
		case proto.TypeSessionData:
			read += len(f.Payload) - proto.DataHead
		case proto.TypeSessionLoss:
			from, to, err := f.Loss()
			if err != nil || from != uint64(read) {
				t.Fatal(from, to, read, err)
			}
			lost = to - from
		}
	}
	t.Logf("%d bytes read, then %d lost", read, lost)
	if err := g.StopSession(t.Context(), proto.SessionStop{Name: "flood"}); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WaitSession(t.Context(), "flood"); err != nil {
		t.Fatal(err)
	}
	// A send that nobody reads is refused at some point; an ended session's is, too.
	g.session(t, "deaf", "exec sleep 1000", proto.StdinPipe)
	var refused error
	for range 10 {
		if refused = g.SendSession(t.Context(), proto.SessionInput{Name: "deaf", Data: make([]byte, 400_000)}); refused != nil {
			break
		}
	}
	if kindOf(refused) != proto.ErrorWrongState || !strings.Contains(refused.Error(), "does not read its input") {
		t.Fatal(refused)
	}
}

func diskOf(t *testing.T, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// TestTerminalSession looks at a full-screen program's repainting for each new
// client, and at the window's size.
func TestTerminalSession(t *testing.T) {
	g := start(t, proto.InitNone)
	spec := proto.SessionSpec{Name: "screen", Cwd: "/", Stdin: proto.StdinPTY, Rows: 24, Cols: 80, Argv: []string{"python3", "-c", `
import os, signal
size = None
def paint(*_):
    global size
    now, before = os.get_terminal_size(), size
    size = now
    if now != before: os.write(1, b"painted %d %d\n" % (now.lines, now.columns))
signal.signal(signal.SIGWINCH, paint)
paint()
while True: os.write(1, b"key %s\n" % os.read(0, 100).strip())`}}
	if _, err := g.StartSession(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	g.attach(t, proto.Attach{Name: "screen"}).sees(t, "painted 24 80")
	first := g.attach(t, proto.Attach{Name: "screen", Client: "1", Rows: 24, Cols: 80})
	first.sees(t, "painted 24 80")
	first.sees(t, "painted 24 80") // anew, for it, although the size is the same
	fmt.Fprint(first, "x\r")
	first.sees(t, "key x")
	second := g.attach(t, proto.Attach{Name: "screen", Client: "2", Rows: 50, Cols: 132})
	second.sees(t, "painted 50 132")
	first.sees(t, "painted 50 132")
	first.Resize(30, 100)
	second.sees(t, "painted 30 100")
	third := g.attach(t, proto.Attach{Name: "screen", Client: "3"}) // no terminal
	third.sees(t, "painted 30 100")
	if err := third.Signal(int(syscall.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	third.rest(t)
	if end := third.Session(); end.Status == nil || *end.Status != 128+9 {
		t.Fatalf("%+v", end)
	}
}

// TestStop ends sessions that heed SIGTERM, and kills those that do not, with
// all that is still in them.
func TestStop(t *testing.T) {
	g := start(t, proto.InitNone)
	g.session(t, "polite", "trap 'echo ending; exit 3' TERM; echo up; while :; do sleep 0.01; done", proto.StdinNull)
	g.session(t, "stubborn", "trap '' TERM; (trap '' TERM; exec sleep 1000) & echo child $!; while :; do sleep 0.01; done", proto.StdinNull)
	polite := g.attach(t, proto.Attach{Name: "polite"})
	polite.sees(t, "up")
	stubborn := g.attach(t, proto.Attach{Name: "stubborn"})
	line, err := stubborn.lines.ReadString('\n')
	var child int
	if _, scanErr := fmt.Sscanf(line, "child %d", &child); err != nil || scanErr != nil {
		t.Fatal(line, err)
	}
	for name, grace := range map[string]time.Duration{"polite": time.Hour, "stubborn": 20 * time.Millisecond} {
		if err := g.StopSession(t.Context(), proto.SessionStop{Name: name, Grace: grace}); err != nil {
			t.Fatal(err)
		}
	}
	if got := polite.rest(t); !strings.Contains(got, "ending\n") { // the shell may tell of its sleep, too
		t.Errorf("%q", got)
	}
	if end := polite.Session(); *end.Status != 3 {
		t.Errorf("%+v", end)
	}
	stubborn.rest(t)
	if end := stubborn.Session(); *end.Status != 128+9 {
		t.Errorf("%+v", end)
	}
	if err := testenv.AwaitEnd(child, time.Minute); err != nil {
		t.Errorf("what the session started lives on: %v", err)
	}
}

// TestSessionsOfAnEarlierLife looks at what a new agent finds on the disk of a
// guest that went down.
func TestSessionsOfAnEarlierLife(t *testing.T) {
	g := start(t, proto.InitNone)
	g.session(t, "ended", "echo words; exit 5", proto.StdinNull)
	g.session(t, "cut", "echo more words; exec sleep 1000", proto.StdinNull)
	if _, err := g.WaitSession(t.Context(), "ended"); err != nil {
		t.Fatal(err)
	}
	g.attach(t, proto.Attach{Name: "cut"}).sees(t, "more words")
	write(t, filepath.Join(g.root, "var/lib/banger/sessions/spoilt/session.json"), "\x00\x00")
	next := startAt(t, g.root)
	list, err := next.Sessions(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	ended, cut := list[0], list[1]
	if ended.Name != "ended" || ended.State != proto.SessionEnded || *ended.Status != 5 || ended.Ended.IsZero() {
		t.Errorf("%+v", ended)
	}
	if cut.Name != "cut" || cut.State != proto.SessionEnded || cut.Status != nil || cut.Reason != "the guest went down while it ran" || cut.PID != 0 {
		t.Errorf("%+v", cut)
	}
	if got := next.attach(t, proto.Attach{Name: "cut", Ended: true}).rest(t); got != "more words\n" {
		t.Errorf("%q", got)
	}
	if _, err := next.StartSession(t.Context(), proto.SessionSpec{Name: "spoilt", Argv: []string{"true"}, Stdin: proto.StdinNull}); err != nil {
		t.Errorf("the name of a session that can't be read: %v", err)
	}
	if err := next.DeleteSession(t.Context(), "cut"); err != nil {
		t.Error(err)
	}
	if _, err := next.WaitSession(t.Context(), "spoilt"); err != nil { // its end is written down
		t.Error(err)
	}
}

// startAt runs another agent on the files of an earlier one.
func startAt(t *testing.T, root string) guest {
	t.Helper()
	a := agent.New(agent.Options{Root: root, Version: "v2", Kernel: &memoryKernel{}})
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "link.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go a.Serve(l)
	return guestAt(a, root, l.Addr().String())
}

// TestManySessions fills a guest with sessions, and a session with clients.
func TestManySessions(t *testing.T) {
	g := start(t, proto.InitNone)
	long := strings.Repeat("\x01", 100_000)
	for i := range proto.MaxSessions {
		spec := proto.SessionSpec{Name: fmt.Sprint("s", i), Argv: []string{"true", long}, Stdin: proto.StdinNull}
		if i == 0 {
			spec.Argv = []string{"sleep", "1000"}
		}
		if _, err := g.StartSession(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.StartSession(t.Context(), proto.SessionSpec{Name: "more", Argv: []string{"true"}, Stdin: proto.StdinNull}); kindOf(err) != proto.ErrorWrongState {
		t.Fatal(err)
	}
	if list, err := g.Sessions(t.Context()); err != nil || len(list) != proto.MaxSessions {
		t.Fatal(len(list), err)
	}
	for range proto.MaxAttached {
		g.attach(t, proto.Attach{Name: "s0"})
	}
	if _, _, err := g.AttachSession(t.Context(), proto.Attach{Name: "s0"}); kindOf(err) != proto.ErrorWrongState {
		t.Fatal(err)
	}
	if err := g.SignalSession(t.Context(), proto.SessionSignal{Name: "s0", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if end, err := g.WaitSession(t.Context(), "s0"); err != nil || *end.Status != 128+9 {
		t.Fatal(end, err)
	}
}
