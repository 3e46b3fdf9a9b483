package proto_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// frames draws well-formed frames.
func frames() *rapid.Generator[[]proto.Frame] {
	sized := func(max int) *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.Byte(), 0, max) }
	return rapid.SliceOfN(rapid.OneOf(
		rapid.Custom(func(t *rapid.T) proto.Frame {
			return proto.Frame{Type: rapid.SampledFrom([]proto.Type{proto.TypeStdout, proto.TypeStderr, proto.TypeStdin}).Draw(t, "type"), Payload: sized(3000).Draw(t, "data")}
		}),
		rapid.Custom(func(t *rapid.T) proto.Frame {
			n := rapid.SampledFrom([]int{0, 1, proto.MaxData - 1, proto.MaxData}).Draw(t, "length")
			return proto.Frame{Type: proto.TypeStdout, Payload: bytes.Repeat([]byte{byte(n)}, n)}
		}),
		rapid.Custom(func(t *rapid.T) proto.Frame {
			n := rapid.SampledFrom([]int{10, 200_000, proto.MaxJSON}).Draw(t, "length")
			return proto.Frame{Type: proto.TypeEvent, Payload: bytes.Repeat([]byte{'j'}, n)}
		}),
		rapid.Just(proto.Frame{Type: proto.TypeExit, Payload: []byte{0, 0, 0, 7}}),
		rapid.Just(proto.Frame{Type: proto.TypeStdinEOF}),
	), 0, 12)
}

// TestFramesComeBack writes frames and reads them again by both readers,
// however the bytes are cut.
func TestFramesComeBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := frames().Draw(t, "frames")
		var wire bytes.Buffer
		w := proto.NewWriter(&wire)
		for _, f := range want {
			if err := w.Frame(f.Type, f.Payload); err != nil {
				t.Fatal(err)
			}
		}
		cut := rapid.SampledFrom([]func(io.Reader) io.Reader{
			func(r io.Reader) io.Reader { return r }, iotest.HalfReader, iotest.DataErrReader,
		}).Draw(t, "cut")
		r := proto.NewReader(cut(bytes.NewReader(wire.Bytes())))
		exact := bytes.NewReader(wire.Bytes())
		for i, f := range want {
			got, err := r.Next()
			if err != nil || got.Type != f.Type || !bytes.Equal(got.Payload, f.Payload) {
				t.Fatalf("frame %d: %v", i, err)
			}
			got, err = proto.ReadFrame(exact)
			if err != nil || got.Type != f.Type || !bytes.Equal(got.Payload, f.Payload) {
				t.Fatalf("frame %d: %v", i, err)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("after the last frame: %v", err)
		}
		if wire.Len() > 0 {
			short := wire.Len() - 1
			r := proto.NewReader(bytes.NewReader(wire.Bytes()[:short]))
			for err := error(nil); err == nil; {
				if _, err = r.Next(); err == io.EOF {
					t.Fatal("a cut frame looked like an end")
				}
			}
		}
	})
}

func TestBadFrames(t *testing.T) {
	head := func(kind proto.Type, n uint32) []byte {
		return binary.BigEndian.AppendUint32([]byte{byte(kind)}, n)
	}
	for name, wire := range map[string][]byte{
		"unknown type":         head(200, 0),
		"type zero":            head(0, 0),
		"data too long":        head(proto.TypeStdout, proto.MaxData+1),
		"longest":              head(proto.TypeStdout, 1<<32-1),
		"JSON too long":        head(proto.TypeReply, proto.MaxJSON+1),
		"exit too short":       head(proto.TypeExit, 3),
		"signal without one":   head(proto.TypeSignal, 0),
		"end with something":   head(proto.TypeStdinEOF, 1),
		"line without source":  head(proto.TypeLog, 0),
		"resize with too much": head(proto.TypeResize, 5),
	} {
		if _, err := proto.NewReader(bytes.NewReader(wire)).Next(); !errors.Is(err, proto.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := proto.ReadFrame(bytes.NewReader(wire)); !errors.Is(err, proto.ErrFrame) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := proto.NewWriter(io.Discard).Frame(proto.TypeStdout, make([]byte, proto.MaxData+1)); !errors.Is(err, proto.ErrFrame) {
		t.Errorf("a frame that is too long was sent: %v", err)
	}
	if _, err := (proto.Frame{Type: proto.TypeExit, Payload: []byte{59, 154, 202, 0}}).Status(); !errors.Is(err, proto.ErrFrame) {
		t.Errorf("exit status 10^9: %v", err)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"plain, ünïcode, 日本":        "plain, ünïcode, 日本",
		"\x1b[31mred\x1b[0m\x07":    "[31mred[0m",
		"a\r\nb\tc":                 "a  b c",
		"\u009b31m\u202eback\u2066": "31mback",
		"bad\xff\xfeutf":            "badutf",
		"line\u2028sep\u200b":       "linesep",
	} {
		if got := proto.Clean(in, 100); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	if got := proto.Clean(strings.Repeat("é", 100), 9); got != "éééé" {
		t.Errorf("cut: %q", got)
	}
}

// TestCommandKeepsItsCredit has a guest that gives no credit: the client must
// stop at the window, and still send a signal.
func TestCommandKeepsItsCredit(t *testing.T) {
	client, guest := net.Pipe()
	defer client.Close()
	c := proto.NewCommand(client)
	done := make(chan int, 1)
	go func() {
		status, _ := c.Run(neverEnding{}, io.Discard, io.Discard)
		done <- status
	}()
	frames, w := proto.NewReader(guest), proto.NewWriter(guest)
	total := 0
	next := func() proto.Frame {
		f, err := frames.Next()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for total < proto.StdinWindow {
		total += len(next().Payload)
	}
	if total != proto.StdinWindow {
		t.Fatalf("%d bytes came without credit", total)
	}
	go c.Signal(15)
	if f := next(); f.Type != proto.TypeSignal || f.Payload[0] != 15 {
		t.Fatalf("%+v", f)
	}
	// Credit lets it go on, and no more credit than there is room counts.
	for range 3 {
		w.Uint32(proto.TypeStdinCredit, 1<<32-1)
	}
	go func() {
		w.Uint32(proto.TypeExit, 3)
		guest.Close()
	}()
	for {
		f, err := frames.Next()
		if err != nil {
			break
		}
		total += len(f.Payload)
	}
	if total > 5*proto.StdinWindow {
		t.Fatalf("%d bytes came", total)
	}
	if got := <-done; got != 3 {
		t.Fatal(got)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }

// FuzzFrame feeds bytes to both readers: they agree, and keep to the bounds.
func FuzzFrame(f *testing.F) {
	var seed bytes.Buffer
	w := proto.NewWriter(&seed)
	w.Frame(proto.TypeStdout, []byte("text"))
	w.Uint32(proto.TypeExit, 1)
	w.JSON(proto.TypeEvent, proto.Event{Kind: proto.EventReady})
	f.Add(seed.Bytes())
	f.Add([]byte{})
	f.Add([]byte{32, 255, 255, 255, 255, 0})
	f.Add([]byte{34, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff})
	seed.Reset()
	w.SessionData(proto.SessionData{Position: 1 << 63, Time: time.Unix(0, -1), Stream: proto.StreamStderr, Data: []byte("text")})
	w.Uint64s(proto.TypeSessionLoss, 5, 3)
	w.Uint64s(proto.TypeSessionLive, 1<<64-1)
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, wire []byte) {
		fast := proto.NewReader(bytes.NewReader(wire))
		exact := bytes.NewReader(wire)
		for {
			got, err := fast.Next()
			want, exactErr := proto.ReadFrame(exact)
			if (err == nil) != (exactErr == nil) || errors.Is(err, proto.ErrFrame) != errors.Is(exactErr, proto.ErrFrame) {
				t.Fatalf("%v, %v", err, exactErr)
			}
			if err != nil {
				return
			}
			if got.Type != want.Type || !bytes.Equal(got.Payload, want.Payload) || len(got.Payload) > proto.MaxJSON {
				t.Fatalf("%+v, %+v", got, want)
			}
			checkSession(t, got)
			if got.Type == proto.TypeExit {
				if n, err := got.Status(); err == nil && (n < 0 || n > proto.MaxStatus) {
					t.Fatalf("status %d", n)
				}
			}
		}
	})
}

// FuzzHandshake feeds texts to all that is decoded from the other end.
func FuzzHandshake(f *testing.F) {
	for _, v := range []any{
		proto.Request{Op: proto.OpExec, Body: json.RawMessage(`{"argv":["true"]}`)},
		proto.Reply{Error: &proto.Error{Kind: proto.ErrorFailed, Message: "\x1b[2J"}},
		proto.Event{Kind: proto.EventHello, Hello: &proto.Hello{Init: proto.InitSystemd}},
		proto.Config{Hostname: "x"}, proto.ExecError{Kind: proto.ExecNoProgram},
		proto.Attach{Name: "planner", Client: "a", Tail: new(uint64)}, proto.Session{Name: "planner", Status: new(int)},
	} {
		seed, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, v := range []any{
			new(proto.Request), new(proto.Reply), new(proto.Event), new(proto.Config), new(proto.Exec),
			new(proto.Dial), new(proto.Logs), new(proto.Shutdown), new(proto.SetTime), new(proto.ExecError), new(proto.Hello),
			new(proto.Credential), new(proto.Put), new(proto.Get), new(proto.Entry), new(proto.Note),
			new(proto.SessionSpec), new(proto.Session), new([]proto.Session), new(proto.Attach), new(proto.Attached),
			new(proto.SessionInput), new(proto.SessionSignal), new(proto.SessionStop), new(proto.SessionRef),
		} {
			err := proto.Decode(text, v)
			if err == nil {
				continue
			}
			if !errors.Is(err, proto.ErrFrame) || err.Error() != proto.Clean(err.Error(), 1<<20) {
				t.Fatalf("%q", err)
			}
		}
	})
}

// checkSession reads a session's frame as its receiver does.
func checkSession(t *testing.T, f proto.Frame) {
	switch f.Type {
	case proto.TypeSessionData:
		d, err := f.SessionData()
		if err != nil && !errors.Is(err, proto.ErrFrame) || len(d.Data) > proto.MaxData {
			t.Fatalf("%+v, %v", d, err)
		}
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := proto.NewWriter(&again).SessionData(d); err != nil || !bytes.Equal(again.Bytes()[proto.HeaderLen:], f.Payload) {
			t.Fatalf("%+v became %x, %v", d, again.Bytes(), err)
		}
	case proto.TypeSessionLoss:
		if from, to, err := f.Loss(); err == nil && from > to {
			t.Fatal(from, to)
		}
	case proto.TypeSessionLive:
		f.Uint64()
	}
}
