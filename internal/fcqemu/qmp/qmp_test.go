package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"reflect"
	"sync"
	"testing"
)

// qemu is a small QMP server: it negotiates, keeps a run state that stop and
// cont change, tells each change as an event, and refuses what it does not
// know.
type qemu struct {
	conn net.Conn
	// silent commands are read and never answered.
	silent map[string]bool
}

func (q *qemu) serve() {
	defer q.conn.Close()
	fmt.Fprintln(q.conn, `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`)
	ready, running := false, true
	lines := bufio.NewScanner(q.conn)
	for lines.Scan() {
		var cmd struct {
			Execute string
			ID      json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &cmd); err != nil {
			fmt.Fprintln(q.conn, `{"error": {"class": "GenericError", "desc": "Invalid JSON syntax"}}`)
			continue
		}
		if q.silent[cmd.Execute] {
			continue
		}
		returned := `{"return": {}, "id": %s}` + "\n"
		switch {
		case cmd.Execute == "qmp_capabilities":
			ready = true
		case !ready:
			returned = `{"error": {"class": "CommandNotFound", "desc": "Expecting capabilities negotiation with 'qmp_capabilities'"}, "id": %s}` + "\n"
		case cmd.Execute == "stop":
			running = false
			fmt.Fprintln(q.conn, `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}`)
		case cmd.Execute == "cont":
			running = true
			fmt.Fprintln(q.conn, `{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME", "data": {"why": "asked"}}`)
		case cmd.Execute == "query-status":
			returned = `{"return": {"running": ` + fmt.Sprint(running) + `}, "id": %s}` + "\n"
		case cmd.Execute == "quit":
			return
		default:
			returned = `{"error": {"class": "CommandNotFound", "desc": "The command ` + cmd.Execute + ` has not been found"}, "id": %s}` + "\n"
		}
		fmt.Fprintf(q.conn, returned, cmd.ID)
	}
}

// connect starts a server and negotiates with it.
func connect(t *testing.T, silent ...string) (*Client, *recorder) {
	t.Helper()
	ours, theirs := net.Pipe()
	q := &qemu{conn: theirs, silent: map[string]bool{}}
	for _, name := range silent {
		q.silent[name] = true
	}
	go q.serve()
	rec := &recorder{}
	c, err := New(context.Background(), ours, rec.add)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, rec
}

type recorder struct {
	mu     sync.Mutex
	events []Event
}

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
}

func TestCommandsRepliesAndEvents(t *testing.T) {
	ctx := context.Background()
	c, rec := connect(t)
	if got := c.Version(); got != "7.2.22" {
		t.Errorf("version %q, want 7.2.22", got)
	}
	status := func() bool {
		t.Helper()
		var s struct{ Running bool }
		if err := c.Do(ctx, "query-status", nil, &s); err != nil {
			t.Fatal(err)
		}
		return s.Running
	}
	if !status() {
		t.Error("not running at first")
	}
	if err := c.Do(ctx, "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	if status() {
		t.Error("running after stop")
	}
	if err := c.Do(ctx, "cont", map[string]string{"a": "b"}, nil); err != nil {
		t.Fatal(err)
	}
	want := []Event{{Name: "STOP"}, {Name: "RESUME", Data: json.RawMessage(`{"why": "asked"}`)}}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if !reflect.DeepEqual(rec.events, want) {
		t.Errorf("events %+v, want %+v", rec.events, want)
	}
}

func TestRefusalIsAnError(t *testing.T) {
	c, _ := connect(t)
	err := c.Do(context.Background(), "fly", nil, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "CommandNotFound" {
		t.Fatalf("got %v, want a CommandNotFound", err)
	}
	if want := "cannot have QEMU do fly: The command fly has not been found"; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
}

func TestCommandsAtOnceEachGetTheirOwnReply(t *testing.T) {
	c, _ := connect(t)
	var all sync.WaitGroup
	for i := range 50 {
		all.Add(1)
		go func() {
			defer all.Done()
			name := fmt.Sprintf("unknown-%d", i)
			want := "cannot have QEMU do " + name + ": The command " + name + " has not been found"
			if err := c.Do(context.Background(), name, nil, nil); err == nil || err.Error() != want {
				t.Errorf("got %v, want %q", err, want)
			}
		}()
	}
	all.Wait()
}

func TestQEMUsEndEndsWaitingAndLaterCommands(t *testing.T) {
	c, _ := connect(t, "stop")
	waiting := make(chan error, 1)
	go func() { waiting <- c.Do(context.Background(), "stop", nil, nil) }()
	if err := c.Do(context.Background(), "quit", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("quit: got %v, want ErrClosed", err)
	}
	if err := <-waiting; err == nil {
		t.Error("the command that nobody answered did not fail")
	}
	<-c.Done()
	if err := c.Do(context.Background(), "cont", nil, nil); !errors.Is(err, ErrClosed) {
		t.Errorf("later command: got %v, want ErrClosed", err)
	}
}

func TestDoEndsWithItsContext(t *testing.T) {
	c, _ := connect(t, "stop")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := c.Do(ctx, "stop", nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := c.Do(context.Background(), "query-status", nil, nil); err != nil {
		t.Errorf("the connection was not usable afterwards: %v", err)
	}
}

func TestNewFailsWhenQEMUEndsBeforeItsGreeting(t *testing.T) {
	ours, theirs := net.Pipe()
	theirs.Close()
	if _, err := New(context.Background(), ours, func(Event) {}); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
