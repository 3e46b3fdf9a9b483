package ui

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
)

// Progress shows the steps of one long operation. Done takes away what is not
// meant to stay; it may be called more than once.
type Progress interface {
	Step(api.StepEvent)
	Done()
}

// NewJSONProgress writes every step as an [api.Event] on a line of its own.
func NewJSONProgress(w io.Writer) Progress { return jsonProgress{w} }

type jsonProgress struct{ w io.Writer }

func (p jsonProgress) Step(s api.StepEvent) { _ = JSONLine(p.w, api.Event{Step: &s}) }
func (p jsonProgress) Done()                {}

// Patience is how long an operation may take before plain progress, which
// lands between a command's own words or in a log, says anything of it.
const Patience = 10 * time.Second

// NewPlainProgress writes a line for a step that goes on after patience, and
// then for each that lasts a fifth of it. Warnings come at once.
func NewPlainProgress(w io.Writer, patience time.Duration) Progress {
	p := &plainProgress{w: w, settle: patience / 5}
	p.timer = time.AfterFunc(patience, p.speak)
	return p
}

type plainProgress struct {
	w      io.Writer
	settle time.Duration
	timer  *time.Timer

	mu     sync.Mutex
	aloud  bool // patience is over
	done   bool
	step   api.StepEvent
	spoken string // what was last written
}

func (p *plainProgress) Step(s api.StepEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Warning {
		warn(p.w, s)
		return
	}
	if p.aloud && s.Name != p.step.Name {
		p.timer.Reset(p.settle)
	}
	p.step = s
}

// speak writes the step that is under way.
func (p *plainProgress) speak() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aloud = true
	if text := Phrase(p.step.Name); !p.done && p.step.Name != "" && text != p.spoken {
		p.spoken = text
		fmt.Fprintf(p.w, "banger: %s\n", describe(p.step))
	}
}

func (p *plainProgress) Done() {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
}

func warn(w io.Writer, s api.StepEvent) {
	fmt.Fprintf(w, "banger: warning: %s\n", Clean(cmp.Or(s.Detail, s.Name)))
}

// describe is a step's name and what it is at.
func describe(s api.StepEvent) string {
	if s.Detail == "" {
		return Phrase(s.Name)
	}
	return Phrase(s.Name) + ": " + Clean(s.Detail)
}

// NewTerminalProgress keeps one line of w alive, which must be a terminal of
// the given width in columns.
func NewTerminalProgress(w io.Writer, width int) Progress {
	p := &terminalProgress{w: w, width: width, begun: time.Now(), ticker: time.NewTicker(120 * time.Millisecond), stop: make(chan struct{})}
	p.drawing.Go(p.spin)
	return p
}

type terminalProgress struct {
	w      io.Writer
	width  int
	begun  time.Time
	ticker *time.Ticker

	drawing sync.WaitGroup
	once    sync.Once
	stop    chan struct{}

	mu    sync.Mutex
	step  api.StepEvent
	frame int
	drawn bool
}

func (p *terminalProgress) Step(s api.StepEvent) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Warning {
		p.erase()
		warn(p.w, s)
		return
	}
	p.step = s
}

func (p *terminalProgress) spin() {
	for {
		select {
		case <-p.ticker.C:
			p.draw()
		case <-p.stop:
			return
		}
	}
}

func (p *terminalProgress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.step.Name == "" {
		return
	}
	p.frame++
	line := fmt.Sprintf("%c %s %s", `-\|/`[p.frame%4], Age(time.Now(), p.begun), describe(p.step)+measure(p.step))
	fmt.Fprintf(p.w, "\r%s\x1b[K", cut(line, p.width-1))
	p.drawn = true
}

// barWidth is the number of columns of a full bar.
const barWidth = 20

// measure shows how far a step is, as a bar where its end is known.
func measure(s api.StepEvent) string {
	switch {
	case s.Total > 0:
		full := int(min(s.Done, s.Total) * barWidth / s.Total)
		return fmt.Sprintf("  [%-*s] %3d%%", barWidth, strings.Repeat("=", full), min(s.Done, s.Total)*100/s.Total)
	case s.Done > 0:
		return "  " + Bytes(s.Done)
	}
	return ""
}

func cut(s string, width int) string {
	if runes := []rune(s); len(runes) > width && width > 0 {
		return string(runes[:width])
	}
	return s
}

func (p *terminalProgress) erase() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.drawn = false
	}
}

func (p *terminalProgress) Done() {
	p.once.Do(func() { close(p.stop) })
	p.drawing.Wait()
	p.ticker.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}
