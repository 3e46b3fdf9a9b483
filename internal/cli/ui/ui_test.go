package ui_test

import (
	"bytes"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 KiB", 1536: "1.5 KiB", 10 << 20: "10 MiB",
		1 << 30: "1.0 GiB", 20 << 30: "20 GiB", 1 << 62: "4096 PiB"} {
		if got := ui.Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestAge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for d, want := range map[time.Duration]string{0: "0s", 119 * time.Second: "119s", 3 * time.Minute: "3m", 30 * time.Hour: "30h",
		50 * time.Hour: "2d", -time.Hour: "0s"} {
		if got := ui.Age(now, now.Add(-d)); got != want {
			t.Errorf("Age of %v = %q, want %q", d, got, want)
		}
	}
	if got := ui.Age(now, time.Time{}); got != "-" {
		t.Errorf("Age of nothing = %q", got)
	}
}

func TestCleanTakesOutWhatDrivesATerminal(t *testing.T) {
	for in, want := range map[string]string{
		"plain ä 漢": "plain ä 漢", "a\x1b[31mb": "a[31mb", "a\tb\nc": "a b c", "a\rb": "ab", "a\u202eb": "ab", "\xff\x9b1": "1", "a\u2028b": "ab",
	} {
		if got := ui.Clean(in); got != want {
			t.Errorf("Clean(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	table := ui.NewTable("NAME", "STATE")
	table.Row("längst", "a\x1bb")
	table.Row("x", "")
	var out bytes.Buffer
	if err := table.Write(&out); err != nil {
		t.Fatal(err)
	}
	if want := "NAME    STATE\nlängst  ab\nx\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// page is a terminal or a log that many may write to.
type page struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *page) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.Write(b)
}

func (p *page) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

func TestPlainProgressIsPatient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out page
		p := ui.NewPlainProgress(&out, 10*time.Second)
		p.Step(api.StepEvent{Name: "create.image"})
		p.Step(api.StepEvent{Name: "x", Detail: "careful\x1b", Warning: true})
		time.Sleep(9 * time.Second)
		if got := out.String(); got != "banger: warning: careful\n" {
			t.Errorf("before patience ends: %q", got)
		}
		time.Sleep(2 * time.Second)
		p.Step(api.StepEvent{Name: "brief"})
		time.Sleep(time.Second)
		p.Step(api.StepEvent{Name: "start.boot", Detail: "now"})
		time.Sleep(3 * time.Second)
		p.Step(api.StepEvent{Name: "last"})
		p.Done()
		time.Sleep(time.Minute)
		if want := "banger: warning: careful\nbanger: getting the image\nbanger: booting: now\n"; out.String() != want {
			t.Errorf("got %q, want %q", out.String(), want)
		}
	})
}

func TestTerminalProgressLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out page
		p := ui.NewTerminalProgress(&out, 60)
		p.Step(api.StepEvent{Name: "downloading", Done: 50, Total: 200})
		time.Sleep(time.Second)
		if !strings.Contains(out.String(), "downloading  [=====               ]  25%") {
			t.Errorf("got %q", out.String())
		}
		p.Step(api.StepEvent{Detail: "careful", Warning: true})
		p.Step(api.StepEvent{Name: strings.Repeat("long ", 30), Done: 3 << 20})
		time.Sleep(time.Second)
		p.Done()
		p.Done()
		if !strings.HasSuffix(out.String(), "\r\x1b[K") || !strings.Contains(out.String(), "\r\x1b[Kbanger: warning: careful\n") {
			t.Errorf("got %q", out.String())
		}
		for _, line := range strings.Split(out.String(), "\r") {
			if len(strings.TrimSuffix(line, "\x1b[K")) > 59 && !strings.Contains(line, "\n") {
				t.Errorf("a line is too long: %q", line)
			}
		}
	})
}

func TestJSONProgress(t *testing.T) {
	var out bytes.Buffer
	p := ui.NewJSONProgress(&out)
	p.Step(api.StepEvent{Name: "disk", Total: 3})
	p.Done()
	if want := `{"step":{"name":"disk","total":3}}` + "\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}
