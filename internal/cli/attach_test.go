package cli

import (
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// TestDetachingKeys types keys in pieces of any size: what is not the detaching
// keys arrives whole and in order.
func TestDetachingKeys(t *testing.T) {
	for typed, want := range map[string]struct {
		sent   string
		detach bool
	}{
		"abc":          {"abc", false},
		"a\x10\x11bc":  {"a", true},
		"\x10b":        {"\x10b", false},
		"\x10\x10\x11": {"\x10", true},
		"\x11\x10":     {"\x11", false}, // the last is held back
	} {
		rapid.Check(t, func(t *rapid.T) {
			sent, detach := sifted(t, typed, (&detachKeys{keys: []byte("\x10\x11")}).sift)
			if sent != want.sent || detach != want.detach {
				t.Fatalf("%q sent %q, detach %v", typed, sent, detach)
			}
		})
	}
}

// sifted types keys in pieces of any size.
func sifted(t *rapid.T, typed string, sift sift) (sent string, leave bool) {
	for rest := []byte(typed); len(rest) > 0 && !leave; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
		var piece []byte
		piece, leave = sift(rest[:n])
		sent, rest = sent+string(piece), rest[n:]
	}
	return sent, leave
}

func TestTilde(t *testing.T) {
	for typed, want := range map[string]struct {
		sent  string
		leave bool
	}{
		"ls ~.\rcd ~\r": {"ls ~.\rcd ~\r", false},
		"~.ls":          {"", true},
		"ls\r~.more":    {"ls\r", true},
		"a\n~.":         {"a\n", true},
		"\r~~.":         {"\r~.", false},
		"\r~~~.":        {"\r~~.", false},
		"~/bin/a ~.":    {"~/bin/a ~.", false},
		"~\r~.":         {"~\r", true},
		"\r~":           {"\r", false}, // the last is held back
	} {
		rapid.Check(t, func(t *rapid.T) {
			sent, leave := sifted(t, typed, new(tilde).sift)
			if sent != want.sent || leave != want.leave {
				t.Fatalf("%q sent %q, leave %v", typed, sent, leave)
			}
		})
	}
}

func TestSince(t *testing.T) {
	now := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{"": {}, "10m": now.Add(-10 * time.Minute), "2026-01-02T14:00:00Z": now.Add(-time.Hour)} {
		if got, err := parseSince(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-10m", "yesterday", "2026-01-02"} {
		if got, err := parseSince(text, now); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestSignalNames(t *testing.T) {
	for text, want := range map[string]unix.Signal{"INT": unix.SIGINT, "sigterm": unix.SIGTERM, "9": unix.SIGKILL} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "NOSUCH"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestAgentCommand(t *testing.T) {
	for text, want := range map[string][]string{
		"opencode acp": {"opencode", "acp"}, "  ": nil, "a 'b c'": {"sh", "-c", "a 'b c'"}, "x; y": {"sh", "-c", "x; y"},
	} {
		if got := agentCommand(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}
