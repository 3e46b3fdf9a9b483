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
			var sent []byte
			held, detach := 0, false
			for rest := []byte(typed); len(rest) > 0 && !detach; {
				n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
				var piece []byte
				piece, held, detach = heldBack(rest[:n], []byte("\x10\x11"), held)
				sent, rest = append(sent, piece...), rest[n:]
			}
			if string(sent) != want.sent || detach != want.detach {
				t.Fatalf("%q sent %q, detach %v", typed, sent, detach)
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
