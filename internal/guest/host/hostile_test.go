package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// hostile is an ill-willed agent: it reads the request, and then does as it
// likes with the connection.
func hostile(t *testing.T, act func(conn net.Conn)) *host.Agent {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				proto.ReadFrame(conn)
				act(conn)
			}()
		}
	}()
	return host.New(func(ctx context.Context, _ uint32) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", l.Addr().String())
	})
}

// raw sends a frame whose head says length, whatever the payload is.
func raw(conn io.Writer, kind proto.Type, length uint32, payload []byte) {
	conn.Write(append(binary.BigEndian.AppendUint32([]byte{byte(kind)}, length), payload...))
}

func text(conn io.Writer, kind proto.Type, payload string) {
	raw(conn, kind, uint32(len(payload)), []byte(payload))
}

func accepted(act func(net.Conn)) func(net.Conn) {
	return func(conn net.Conn) {
		text(conn, proto.TypeReply, "{}")
		act(conn)
	}
}

// plain fails if what a person would be shown could drive their terminal, or
// is endless.
func plain(t *testing.T, text string) {
	t.Helper()
	if len(text) > 4*proto.MaxText || proto.Clean(text, len(text)) != text {
		t.Errorf("not fit to be shown: %.200q", text)
	}
}

func TestBadAnswers(t *testing.T) {
	for name, act := range map[string]func(net.Conn){
		"nothing":             func(net.Conn) {},
		"half a head":         func(c net.Conn) { c.Write([]byte{2, 0}) },
		"a frame that is cut": func(c net.Conn) { raw(c, proto.TypeReply, 100, []byte("{")) },
		"a frame of 4 GiB":    func(c net.Conn) { raw(c, proto.TypeReply, 1<<32-1, bytes.Repeat([]byte("x"), 1<<20)) },
		"another frame":       func(c net.Conn) { text(c, proto.TypeStdout, "hi") },
		"an unknown frame":    func(c net.Conn) { text(c, 77, "hi") },
		"no JSON":             func(c net.Conn) { text(c, proto.TypeReply, "\x1b[31m{") },
		"unknown fields":      func(c net.Conn) { text(c, proto.TypeReply, `{"\u001b[2J":1}`) },
		"an error that drives": func(c net.Conn) {
			text(c, proto.TypeReply, `{"error":{"kind":"\u001b","message":"\u001b]0;owned\u0007\r\n\u202e"}}`)
		},
		"an endless error": func(c net.Conn) { text(c, proto.TypeReply, `{"error":{"message":"`+strings.Repeat("a", 900_000)+`"}}`) },
		"an unknown init":  func(c net.Conn) { text(c, proto.TypeReply, `{"body":{"init":"\u001b[2J"}}`) },
	} {
		_, err := hostile(t, act).Info(t.Context())
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		plain(t, err.Error())
	}
	// Texts that are only ugly are cleaned.
	h, err := hostile(t, func(c net.Conn) {
		text(c, proto.TypeReply, `{"body":{"init":"none","version":"1\u001b[2J","kernel":"`+strings.Repeat("k", 10_000)+`"}}`)
	}).Info(t.Context())
	if err != nil || h.Version != "1[2J" || len(h.Kernel) > 200 {
		t.Fatalf("%+v, %v", h, err)
	}
}

func TestAgentThatNeverAnswers(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	a := hostile(t, func(net.Conn) { <-stop })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.Info(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
}

func TestBadEvents(t *testing.T) {
	const hello = `{"kind":"hello","hello":{"init":"systemd"}}`
	for name, act := range map[string]func(net.Conn){
		"no hello": func(c net.Conn) { text(c, proto.TypeEvent, `{"kind":"ready","stage":"default"}`) },
		"an unknown stage": func(c net.Conn) {
			text(c, proto.TypeEvent, hello)
			text(c, proto.TypeEvent, `{"kind":"ready","stage":"\u001b"}`)
		},
		"an unknown reason": func(c net.Conn) { text(c, proto.TypeEvent, hello); text(c, proto.TypeEvent, `{"kind":"goodbye"}`) },
		"another hello":     func(c net.Conn) { text(c, proto.TypeEvent, hello); text(c, proto.TypeEvent, hello) },
		"no end of events": func(c net.Conn) {
			text(c, proto.TypeEvent, hello)
			for range 10_000 {
				text(c, proto.TypeEvent, `{"kind":"ready","stage":"default"}`)
			}
		},
		"output": func(c net.Conn) { text(c, proto.TypeEvent, hello); text(c, proto.TypeStdout, "hi") },
	} {
		events, err := hostile(t, accepted(act)).Watch(t.Context())
		for n := 0; err == nil; n++ {
			if n > 1000 {
				t.Fatalf("%s: no end", name)
			}
			_, err = events.Next(t.Context())
		}
		plain(t, err.Error())
		if !errors.Is(err, proto.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
		if events != nil {
			events.Close()
		}
	}
}

// relayed runs a command of an ill-willed agent, and returns what the daemon
// and its client see.
func relayed(t *testing.T, act func(net.Conn)) (host.Outcome, []byte, error) {
	t.Helper()
	guest, err := hostile(t, accepted(act)).Exec(t.Context(), proto.Exec{Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	client, daemon := net.Pipe()
	seen := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(client)
		seen <- all
	}()
	outcome, err := host.Relay(daemon, guest)
	return outcome, <-seen, err
}

func TestRelayChecks(t *testing.T) {
	for name, act := range map[string]func(net.Conn){
		"exit status 10^9": func(c net.Conn) { raw(c, proto.TypeExit, 4, []byte{0x3b, 0x9a, 0xca, 0}) },
		"exit status 256":  func(c net.Conn) { raw(c, proto.TypeExit, 4, []byte{0, 0, 1, 0}) },
		"a long frame":     func(c net.Conn) { raw(c, proto.TypeStdout, proto.MaxData+1, make([]byte, proto.MaxData+1)) },
		"a reply":          func(c net.Conn) { text(c, proto.TypeReply, "{}") },
		"input":            func(c net.Conn) { text(c, proto.TypeStdin, "rm -rf /\n") },
		"no end":           func(c net.Conn) { raw(c, proto.TypeStdout, 10, []byte("half")) },
	} {
		outcome, seen, err := relayed(t, act)
		if err == nil || outcome.Over {
			t.Errorf("%s: %+v", name, outcome)
			continue
		}
		plain(t, err.Error())
		if len(seen) > 0 {
			t.Errorf("%s: the client saw %q", name, seen)
		}
	}
	outcome, seen, err := relayed(t, func(c net.Conn) {
		text(c, proto.TypeStderr, "\x1b[31m") // output is the command's own affair
		text(c, proto.TypeExecError, `{"kind":"\u001b","message":"\u001b[2Jboo"}`)
	})
	if err != nil || !outcome.Over || outcome.Status != 126 {
		t.Fatalf("%+v, %v", outcome, err)
	}
	if !bytes.Contains(seen, []byte("\x1b[31m")) || bytes.Contains(seen, []byte("2Jboo\x1b")) || !bytes.Contains(seen, []byte(`{"kind":"cannot-exec","message":"[2Jboo"}`)) {
		t.Fatalf("%q", seen)
	}
}

// TestTheLastWords has an agent that says how its command ended and goes, while
// the client still writes to the command: what was said arrives.
func TestTheLastWords(t *testing.T) {
	for range 50 {
		gone := make(chan struct{})
		guest, err := hostile(t, accepted(func(c net.Conn) {
			for range 2 { // more than a reader takes at once
				raw(c, proto.TypeStdout, proto.MaxData, make([]byte, proto.MaxData))
			}
			raw(c, proto.TypeExit, 4, []byte{0, 0, 0, 3})
			c.Close()
			close(gone)
		})).Exec(t.Context(), proto.Exec{Argv: []string{"x"}})
		if err != nil {
			t.Fatal(err)
		}
		<-gone
		client, daemon := net.Pipe()
		refusing := &refused{Conn: guest, at: make(chan struct{})}
		outcome := make(chan host.Outcome, 1)
		go func() {
			o, _ := host.Relay(daemon, refusing)
			outcome <- o
		}()
		text(client, proto.TypeStdin, "for nobody")
		<-refusing.at // before the client takes the first word
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Fatal(err)
		}
		if o := <-outcome; !o.Over || o.Status != 3 {
			t.Fatalf("%+v", o)
		}
	}
}

// refused tells when the connection takes nothing any more.
type refused struct {
	net.Conn
	at   chan struct{}
	once sync.Once
}

func (r *refused) Write(p []byte) (int, error) {
	n, err := r.Conn.Write(p)
	if err != nil {
		r.once.Do(func() { close(r.at) })
	}
	return n, err
}

// TestRelayBounded has an agent that sends without end to a client that reads
// slowly, and one that never reads what its client sends.
func TestRelayBounded(t *testing.T) {
	chunk := make([]byte, proto.MaxData)
	guest, err := hostile(t, accepted(func(c net.Conn) {
		for {
			if _, err := c.Write(append([]byte{byte(proto.TypeStdout), 0, 1, 0, 0}, chunk...)); err != nil {
				return
			}
		}
	})).Exec(t.Context(), proto.Exec{Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	client, daemon := net.Pipe()
	over := make(chan error, 1)
	go func() {
		_, err := host.Relay(daemon, guest)
		over <- err
	}()
	go io.Copy(client, endless{}) // which the agent never reads
	if _, err := io.CopyN(io.Discard, client, 256<<20); err != nil {
		t.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	if m.HeapSys > 64<<20 {
		t.Fatalf("the heap grew to %d MiB", m.HeapSys>>20)
	}
	client.Close()
	if err := <-over; !errors.Is(err, host.ErrClientGone) {
		t.Fatal(err)
	}
}

// TestClientOfStuckGuest has an agent that neither reads nor says anything: a
// client that goes must be seen to go, its input unread as it is.
func TestClientOfStuckGuest(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	guest, err := hostile(t, accepted(func(net.Conn) { <-stop })).Exec(t.Context(), proto.Exec{Argv: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "d"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		client.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // by then all buffers are full
		io.Copy(client, endless{})
		client.Close()
	}()
	if _, err := host.Relay(daemon, guest); !errors.Is(err, host.ErrClientGone) {
		t.Fatal(err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestBadLogs(t *testing.T) {
	log, err := hostile(t, accepted(func(c net.Conn) {
		text(c, proto.TypeLog, "k\x1b[2Jline\x9b")
		text(c, proto.TypeLog, "xwhat")
	})).Logs(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	line, err := log.Next()
	if err != nil || line.Source != proto.LogKernel || line.Text != "[2Jline" {
		t.Fatalf("%+v, %v", line, err)
	}
	if _, err := log.Next(); !errors.Is(err, proto.ErrFrame) {
		t.Fatal(err)
	}
	cut, err := hostile(t, accepted(func(net.Conn) {})).Logs(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cut.Next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
}

// sessionFrame is output at a position.
func sessionFrame(conn io.Writer, position uint64, stream byte, data string) {
	payload := binary.BigEndian.AppendUint64(nil, position)
	payload = append(binary.BigEndian.AppendUint64(payload, 1), stream)
	text(conn, proto.TypeSessionData, string(payload)+data)
}

const (
	goodSession = `{"name":"a","argv":["x"],"stdin":"pipe","state":"running","started":"2026-01-02T15:04:05Z","log_start":0,"log_end":0}`
	endSession  = `{"name":"a","argv":["\u001b[2Jx"],"cwd":"\u202e/","stdin":"pipe","state":"ended","reason":"\u0007!","started":"2026-01-02T15:04:05Z","status":7,"log_start":0,"log_end":9}`
)

// attached relays a session of an ill-willed agent, and returns what the client
// sees.
func attached(t *testing.T, act func(net.Conn)) ([]byte, error) {
	t.Helper()
	guest, _, err := hostile(t, func(c net.Conn) {
		text(c, proto.TypeReply, `{"body":{"session":`+goodSession+`}}`)
		act(c)
	}).AttachSession(t.Context(), proto.Attach{Name: "a"})
	if err != nil {
		t.Fatal(err)
	}
	client, daemon := net.Pipe()
	seen := make(chan []byte, 1)
	go func() {
		all, _ := io.ReadAll(client)
		seen <- all
	}()
	err = host.RelaySession(daemon, guest, "a")
	return <-seen, err
}

func TestBadSessionFrames(t *testing.T) {
	for name, act := range map[string]func(net.Conn){
		"output of no stream": func(c net.Conn) { sessionFrame(c, 0, 'x', "hi") },
		"output without end":  func(c net.Conn) { sessionFrame(c, 1<<64-1, 'o', "hi") },
		"a loss turned around": func(c net.Conn) {
			text(c, proto.TypeSessionLoss, "\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x00\x00\x00\x00\x01")
		},
		"a short head":        func(c net.Conn) { text(c, proto.TypeSessionData, "short") },
		"a long frame":        func(c net.Conn) { raw(c, proto.TypeSessionData, proto.DataHead+proto.MaxData+1, make([]byte, 100_000)) },
		"input":               func(c net.Conn) { text(c, proto.TypeStdin, "rm -rf /\n") },
		"output of a command": func(c net.Conn) { text(c, proto.TypeStdout, "hi") },
		"nothing":             func(net.Conn) {},
		"another's end":       func(c net.Conn) { text(c, proto.TypeSessionEnd, strings.Replace(goodSession, `"a"`, `"b"`, 1)) },
		"an unknown state":    func(c net.Conn) { text(c, proto.TypeSessionEnd, strings.Replace(goodSession, "running", "\x1b", 1)) },
		"no status of any process": func(c net.Conn) {
			text(c, proto.TypeSessionEnd, strings.Replace(endSession, `"status":7`, `"status":-1`, 1))
		},
		"a log that ends before it begins": func(c net.Conn) {
			text(c, proto.TypeSessionEnd, strings.Replace(goodSession, `"log_start":0`, `"log_start":1`, 1))
		},
	} {
		seen, err := attached(t, act)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		plain(t, err.Error())
		if len(seen) > 0 {
			t.Errorf("%s: the client saw %q", name, seen)
		}
	}
	// Output that comes twice, and what is past ending twice.
	for name, act := range map[string]func(net.Conn){
		"twice": func(c net.Conn) { sessionFrame(c, 5, 'o', "hello"); sessionFrame(c, 9, 'o', "o") },
		"two ends": func(c net.Conn) {
			text(c, proto.TypeSessionLive, "12345678")
			text(c, proto.TypeSessionLive, "12345678")
		},
	} {
		if _, err := attached(t, act); !errors.Is(err, proto.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	seen, err := attached(t, func(c net.Conn) {
		sessionFrame(c, 5, 'e', "\x1b[31m") // output is the command's own affair
		text(c, proto.TypeSessionEnd, endSession)
	})
	if err != nil || !bytes.Contains(seen, []byte("\x1b[31m")) || bytes.Contains(seen, []byte(`\u001b`)) || !bytes.Contains(seen, []byte(`"argv":["[2Jx"],"cwd":"/"`)) {
		t.Fatalf("%q, %v", seen, err)
	}
}

func TestBadSessions(t *testing.T) {
	list := func(sessions ...string) string { return `{"body":[` + strings.Join(sessions, ",") + `]}` }
	many := make([]string, proto.MaxSessions+1)
	for i := range many {
		many[i] = strings.Replace(goodSession, `"a"`, `"s`+strings.Repeat("x", i%40)+`"`, 1)
	}
	for name, answer := range map[string]string{
		"no list":       `{"body":{}}`,
		"twice":         list(goodSession, goodSession),
		"too many":      list(many...),
		"a path":        list(strings.Replace(goodSession, `"a"`, `"../../etc/passwd"`, 1)),
		"no name":       list(strings.Replace(goodSession, `"a"`, `""`, 1)),
		"many words":    list(strings.Replace(goodSession, `"x"`, `"x"`+strings.Repeat(`,"x"`, 5000), 1)),
		"negative":      list(strings.Replace(goodSession, `"log_end":0`, `"log_end":0,"pid":-1`, 1)),
		"unknown field": list(`{"\u001b":1}`),
	} {
		if _, err := hostile(t, func(c net.Conn) { text(c, proto.TypeReply, answer) }).Sessions(t.Context()); err == nil {
			t.Errorf("%s was taken", name)
		} else {
			plain(t, err.Error())
		}
	}
	for name, answer := range map[string]string{
		"another session":         `{"body":{"session":` + strings.Replace(goodSession, `"a"`, `"b"`, 1) + `}}`,
		"more taken than came":    `{"body":{"session":` + goodSession + `,"accepted":1,"taken":2}}`,
		"more under way than may": `{"body":{"session":` + goodSession + `,"accepted":10000000,"taken":2}}`,
	} {
		if _, _, err := hostile(t, func(c net.Conn) { text(c, proto.TypeReply, answer) }).AttachSession(t.Context(), proto.Attach{Name: "a"}); !errors.Is(err, proto.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	if _, err := hostile(t, accepted(func(net.Conn) { <-stop })).WaitSession(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, err := hostile(t, accepted(func(c net.Conn) { text(c, proto.TypeStdout, "x") })).WaitSession(t.Context(), "a"); !errors.Is(err, proto.ErrFrame) {
		t.Fatal(err)
	}
}
