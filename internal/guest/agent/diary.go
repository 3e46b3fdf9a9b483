package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// maxDiary is how many lines the diary keeps.
const maxDiary = 2000

// diary is what the agent has to say for the guest's log: the latest lines of
// this life.
type diary struct {
	mu      sync.Mutex
	dropped int // lines that were there before the first
	lines   []string
	more    chan struct{} // closed and renewed with each line
}

func newDiary() *diary { return &diary{more: make(chan struct{})} }

// add writes a line down, with the time and what it is about, as the journal
// has it.
func (d *diary) add(about, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("%s %s: %s", time.Now().UTC().Format("2006-01-02T15:04:05-0700"), about, text))
	if extra := len(d.lines) - maxDiary; extra > 0 {
		d.lines, d.dropped = d.lines[extra:], d.dropped+extra
	}
	close(d.more)
	d.more = make(chan struct{})
}

// since gives the lines from a position on, the position after them, and what
// is closed when there are more.
func (d *diary) since(position int) ([]string, int, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	from := max(position-d.dropped, 0)
	return d.lines[from:len(d.lines):len(d.lines)], d.dropped + len(d.lines), d.more
}

// send sends what the diary holds now.
func (d *diary) send(out *proto.Writer) {
	lines, _, _ := d.since(0)
	_ = sendAll(out, lines) // a host that is gone needs no log
}

// follow sends the diary as it grows, until ctx ends.
func (d *diary) follow(ctx context.Context, out *proto.Writer) {
	for position := 0; ; {
		lines, next, more := d.since(position)
		if sendAll(out, lines) != nil {
			return
		}
		position = next
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

func sendAll(out *proto.Writer, lines []string) error {
	for _, line := range lines {
		if err := sendLine(out, proto.LogAgent, line); err != nil {
			return err
		}
	}
	return nil
}
