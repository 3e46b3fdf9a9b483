package session_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/session"
)

func TestTableOfSessions(t *testing.T) {
	s := newStation(t)
	ctx := t.Context()
	first := s.begin("planner", "read line; echo got $line; exit 3")
	s.begin("other", "sleep 1000")
	if first.Stdin != api.StdinPipe || first.State != api.SessionRunning || first.PID == 0 {
		t.Errorf("%+v", first)
	}
	list, err := s.List(ctx, "box-one")
	check(t, err)
	if len(list) != 2 || list[0].Name != "planner" || list[1].Name != "other" || list[0].Socket != first.Socket {
		t.Errorf("%+v", list)
	}
	_, err = s.Start(ctx, "one", api.StartSession{Name: "planner", Argv: []string{"true"}})
	isKind(t, err, api.KindExists)
	_, err = s.Start(ctx, "one", api.StartSession{Name: "../planner", Argv: []string{"true"}})
	isKind(t, err, api.KindBadRequest)
	_, err = s.Start(ctx, "nobody", api.StartSession{Name: "planner", Argv: []string{"true"}})
	isKind(t, err, api.KindNotFound)
	_, err = s.Show(ctx, "one", "third")
	isKind(t, err, api.KindNotFound)

	check(t, s.Send(ctx, "one", "planner", api.SendSession{Data: []byte("a line\n")}))
	ended, err := s.Wait(ctx, "one", "planner")
	check(t, err)
	if ended.State != api.SessionEnded || ended.Status == nil || *ended.Status != 3 {
		t.Errorf("%+v", ended)
	}
	isKind(t, s.Send(ctx, "one", "planner", api.SendSession{Data: []byte("late\n")}), api.KindWrongState)
	isKind(t, s.Delete(ctx, "one", "other"), api.KindWrongState)
	check(t, s.Delete(ctx, "one", "planner"))
	if _, err := os.Lstat(first.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a deleted session: %v", err)
	}
	check(t, s.Stop(ctx, "one", "other", api.StopSession{Grace: time.Minute}))
	if other, err := s.Wait(ctx, "one", "other"); err != nil || *other.Status != 128+15 {
		t.Errorf("%+v, %v", other, err)
	}
}

func TestSocketsAreTheUsersAlone(t *testing.T) {
	s := newStation(t)
	told := s.begin("planner", "sleep 1000")
	for path, mode := range map[string]os.FileMode{told.Socket: os.ModeSocket | 0o600, filepath.Dir(told.Socket): os.ModeDir | 0o700} {
		if info, err := os.Lstat(path); err != nil || info.Mode() != mode {
			t.Errorf("%s has the mode %v, %v", path, info.Mode(), err)
		}
	}
}

func TestClientsOfOneSocket(t *testing.T) {
	s := newStation(t)
	told := s.begin("planner", "echo hello; read line; echo trouble >&2; read line; echo got $line; exit 7")
	// The name in the frame is of no account: the socket is one session's.
	a, answer := attach(t, told.Socket, proto.Attach{Name: "other", Client: "a"})
	if answer.Session.Name != "planner" || answer.From != 0 {
		t.Errorf("%+v", answer)
	}
	before := follow(t, a, 0, "hello\n")
	check(t, proto.NewWriter(a).Frame(proto.TypeStdin, []byte("go\n")))
	before += follow(t, a, uint64(len(before)), "trouble\n")
	b, _ := attach(t, told.Socket, proto.Attach{From: uint64(len("hello\n"))})
	follow(t, b, uint64(len("hello\n")), "trouble\n")
	check(t, proto.NewWriter(a).Frame(proto.TypeStdin, []byte("the line\n")))
	rest := follow(t, a, uint64(len(before)), "")
	if !strings.HasSuffix(before+rest, "got the line\n") {
		t.Errorf("%q, %q", before, rest)
	}
	follow(t, b, uint64(len("hello\ntrouble\n")), "")
	ends(t, a)
	ends(t, b)

	// One that ended is attached to only when that is wanted.
	conn := dial(t, told.Socket)
	check(t, proto.NewWriter(conn).JSON(proto.TypeAttach, proto.Attach{}))
	if reply := replyOf(t, conn); reply.Error == nil || reply.Error.Kind != proto.ErrorWrongState {
		t.Errorf("%+v", reply)
	}
	past, _ := attach(t, told.Socket, proto.Attach{Ended: true, Stream: proto.StreamStderr})
	f, err := proto.ReadFrame(past)
	check(t, err)
	if d, err := f.SessionData(); err != nil || string(d.Data) != "trouble\n" {
		t.Errorf("%q, %v", d.Data, err)
	}
}

func TestWhatASocketRefuses(t *testing.T) {
	s := newStation(t)
	told := s.begin("planner", "sleep 1000")
	for name, sent := range map[string]string{
		"another frame":   "\x10\x00\x00\x00\x01x",
		"no JSON":         "\x44\x00\x00\x00\x02{]",
		"unknown stream":  frame(`{"stream":1}`),
		"too long":        "\x44\xff\xff\xff\xff",
		"a text protocol": "GET / HTTP/1.1\r\n\r\n",
	} {
		conn := dial(t, told.Socket)
		_, err := conn.Write([]byte(sent))
		check(t, err)
		reply := replyOf(t, conn)
		if reply.Error == nil || reply.Error.Kind != proto.ErrorBadRequest || reply.Error.Message == "" {
			t.Errorf("%s: %+v", name, reply)
		}
		ends(t, conn)
	}
	// It still serves.
	attach(t, told.Socket, proto.Attach{})
}

// frame is an attach frame with a payload.
func frame(payload string) string {
	return "\x44\x00\x00\x00" + string(byte(len(payload))) + payload
}

func TestMoreClientsThanASocketServes(t *testing.T) {
	s := newStation(t)
	told := s.begin("planner", "sleep 1000")
	var clients []net.Conn
	for range session.MaxClients {
		conn, _ := attach(t, told.Socket, proto.Attach{})
		clients = append(clients, conn)
	}
	ends(t, dial(t, told.Socket))
	clients[0].Close()
	for end := time.Now().Add(patience); ; {
		conn := dial(t, told.Socket)
		if proto.NewWriter(conn).JSON(proto.TypeAttach, proto.Attach{}) == nil {
			if f, err := proto.ReadFrame(conn); err == nil && f.Type == proto.TypeReply {
				return
			}
		}
		if time.Now().After(end) {
			t.Fatal("the place of a client that went is not free")
		}
	}
}

func TestSocketsOfTheNextDaemon(t *testing.T) {
	s := newStation(t)
	told := s.begin("planner", "echo begun; read line; echo got $line; sleep 1000")
	conn, _ := attach(t, told.Socket, proto.Attach{Client: "a"})
	follow(t, conn, 0, "begun\n")
	s.Host.Close()
	ends(t, conn)
	if _, err := net.Dial("unix", told.Socket); err == nil {
		t.Error("a closed host's socket serves")
	}
	if _, err := s.Start(t.Context(), "one", api.StartSession{Name: "late", Argv: []string{"true"}}); err != nil {
		t.Error(err) // it is started, only without a socket
	}
	// What lies at a socket's place is of no account.
	check(t, os.MkdirAll(filepath.Join(s.dir, "gone"), 0o700))
	check(t, os.WriteFile(filepath.Join(s.dir, "gone", "planner"), nil, 0o600))
	s.reopen()
	s.Recover()
	list, err := s.List(t.Context(), "one")
	check(t, err)
	if len(list) != 2 || list[0].Socket != told.Socket {
		t.Fatalf("%+v", list)
	}
	conn, answer := attach(t, told.Socket, proto.Attach{From: uint64(len("begun\n")), Client: "a"})
	if answer.From != uint64(len("begun\n")) {
		t.Errorf("%+v", answer)
	}
	check(t, proto.NewWriter(conn).Frame(proto.TypeStdin, []byte("more\n")))
	follow(t, conn, answer.From, "got more\n")
	if _, err := os.Lstat(filepath.Join(s.dir, "gone")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a VM that is no more has left: %v", err)
	}
	s.vms.remove("one")
	s.Sweep()
	ends(t, conn)
	if entries, err := os.ReadDir(s.dir); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestAttachOfAStreamThatIsNone(t *testing.T) {
	s := newStation(t)
	s.begin("planner", "sleep 1000")
	_, _, err := s.Attach(t.Context(), "one", "planner", api.AttachSession{Stream: "both"})
	isKind(t, err, api.KindBadRequest)
	_, _, err = s.Attach(t.Context(), "one", "nobody", api.AttachSession{})
	isKind(t, err, api.KindNotFound)
	conn, answer, err := s.Attach(t.Context(), "one", "planner", api.AttachSession{Stream: api.StreamStderr})
	check(t, err)
	conn.Close()
	if answer.Session.Name != "planner" {
		t.Errorf("%+v", answer)
	}
}

// A client that does not read holds up neither the command nor another client.
func TestAClientThatDoesNotRead(t *testing.T) {
	const size = 8 << 20
	s := newStation(t)
	told := s.begin("planner", "read go; head -c 8388608 /dev/zero | tr '\\0' x; echo; echo done")
	attach(t, told.Socket, proto.Attach{})
	conn, _ := attach(t, told.Socket, proto.Attach{Client: "a"})
	check(t, proto.NewWriter(conn).Frame(proto.TypeStdin, []byte("go\n")))
	if out := follow(t, conn, 0, ""); len(out) != size+len("\ndone\n") || !strings.HasSuffix(out, "x\ndone\n") {
		t.Errorf("%d bytes", len(out))
	}
}

// FuzzAttach gives a socket what any program may begin with: it is taken whole
// and as it was meant, or refused with a reason.
func FuzzAttach(f *testing.F) {
	for _, want := range []proto.Attach{{}, {Name: "planner", Client: "a", Tail: new(uint64)}, {From: 1 << 63, Past: true, Ended: true, Rows: 24, Cols: 80}} {
		payload, err := json.Marshal(want)
		check(f, err)
		f.Add([]byte(frame(string(payload))))
	}
	for _, text := range []string{"", "\x44", "\x44\x00\x00\x00\x02{}", "\x44\x00\x10\x00\x01{}", "\x10\x00\x00\x00\x01x", "\x44\x00\x00\x00\x0d{\"from\":-1.5}"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		client, server := socketPair(t)
		defer server.Close()
		go func() {
			client.Write(sent) // an error is the server's, which has read enough
			client.Close()
		}()
		want, err := session.ReadAttach(server)
		if err != nil {
			isKind(t, err, api.KindBadRequest)
			if text := err.Error(); text != proto.Clean(text, proto.MaxText) {
				t.Errorf("%q", text)
			}
			return
		}
		if len(sent) < proto.HeaderLen || sent[0] != byte(proto.TypeAttach) {
			t.Errorf("%q was taken for %+v", sent, want)
		}
	})
}

// The host's half of the relay refuses what no session says.
func TestRelayOfASessionThatLies(t *testing.T) {
	for name, lie := range map[string]func(*proto.Writer){
		"twice":         func(w *proto.Writer) { w.SessionData(data(0)); w.SessionData(data(0)) },
		"no stream":     func(w *proto.Writer) { d := data(0); d.Stream = 'x'; w.SessionData(d) },
		"wraps around":  func(w *proto.Writer) { w.SessionData(data(1<<64 - 1)) },
		"loss backward": func(w *proto.Writer) { w.Uint64s(proto.TypeSessionLoss, 5, 3) },
		"another's end": func(w *proto.Writer) { w.JSON(proto.TypeSessionEnd, proto.Session{Name: "other"}) },
		"another frame": func(w *proto.Writer) { w.Frame(proto.TypeStdout, []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			client, here := net.Pipe()
			guest, there := net.Pipe()
			go func() { lie(proto.NewWriter(guest)) }()
			go func() {
				for {
					if _, err := proto.ReadFrame(client); err != nil {
						return
					}
				}
			}()
			if err := host.RelaySession(here, there, "planner"); !errors.Is(err, proto.ErrFrame) {
				t.Errorf("%v", err)
			}
		})
	}
}

func data(at uint64) proto.SessionData {
	return proto.SessionData{Position: at, Time: time.Unix(1, 0), Stream: proto.StreamStdout, Data: []byte("text")}
}
