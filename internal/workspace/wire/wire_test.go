package wire_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

func TestPaths(t *testing.T) {
	for _, good := range []string{"a", "a/b", "..a", "a..", " ", "line\nend", "\xff", strings.Repeat("x", 255)} {
		if err := wire.CheckPath(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", "/a", "a/", "a//b", ".", "a/./b", "..", "a/../b", "a\x00", strings.Repeat("x", 256), strings.Repeat("x/", 2048) + "x"} {
		if err := wire.CheckPath(bad); !errors.Is(err, wire.ErrProtocol) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEntriesAndChunksComeAsTheyWent(t *testing.T) {
	var pipe bytes.Buffer
	conn := wire.NewConn(&pipe)
	entries := []wire.Entry{
		{Path: "f", Stat: wire.Stat{Type: wire.File, Mode: 0o644, MTime: -1, Size: 5}, Was: wire.Stat{Type: wire.Gone}},
		{Path: "d", Stat: wire.Stat{Type: wire.Dir, Mode: 0o2755}},
		{Path: "l", Stat: wire.Stat{Type: wire.Link, Target: "../x"}, Was: wire.Stat{Type: wire.File, Mode: 0o600, MTime: 7, Size: 1 << 40}},
		{Path: "g", Stat: wire.Stat{Type: wire.Gone}},
	}
	for _, e := range entries {
		if err := conn.Entry(e); err != nil {
			t.Fatal(err)
		}
	}
	conn.End()
	long := strings.Repeat("chunk", 200_000)
	conn.Chunks(strings.NewReader(long))
	conn.Names([]string{"a", "b"})
	for _, want := range entries {
		got, err := conn.ReadEntry()
		if err != nil || got != want {
			t.Errorf("%+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := conn.ReadEntry(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
	if data, err := io.ReadAll(conn.ReadChunks()); err != nil || string(data) != long {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if names, err := conn.ReadNames(); err != nil || len(names) != 2 {
		t.Errorf("%q, %v", names, err)
	}
}

// FuzzRead reads what any other end may send: nothing of it may be taken for
// more than the bounds allow.
func FuzzRead(f *testing.F) {
	f.Add([]byte("f\x00\x00\x01\xa4\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x05\x00\x01a\x00\x00"))
	f.Add([]byte("l\x00\x02..\x00\x01ax\x00"))
	f.Add([]byte("\x00\x00\x00\x02{}\x01\x00\x01a\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		stream := func() *wire.Conn { return wire.NewConn(bytes.NewBuffer(bytes.Clone(data))) }
		for conn := stream(); ; {
			e, err := conn.ReadEntry()
			if err != nil {
				break
			}
			if wire.CheckPath(e.Path) != nil || e.Size < 0 || e.Mode > 0o7777 {
				t.Fatalf("%+v was taken", e)
			}
		}
		var ask wire.Ask
		_ = stream().ReadJSON(&ask)
		_, _ = stream().ReadNames()
		n, err := io.Copy(io.Discard, stream().ReadChunks())
		if n > int64(len(data)) || err == nil && n == 0 && len(data) < 4 {
			t.Fatalf("%d bytes of %d, %v", n, len(data), err)
		}
	})
}
