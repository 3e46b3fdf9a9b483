package ui

import (
	"bytes"
	"io"

	"github.com/banger-vm/banger/api"
)

// maxLine is how long a line of a program may be before it is torn apart.
const maxLine = 4 << 10

// Lines makes a step of each line that a program prints, with the line as its
// detail.
func Lines(name string, to Progress) io.Writer { return &lines{name: name, to: to} }

type lines struct {
	name string
	to   Progress
	part []byte // of the line that has not ended
}

func (l *lines) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), maxLine-len(l.part))
		end := bytes.IndexByte(rest[:n], '\n')
		if end >= 0 {
			n = end + 1
		}
		l.part = append(l.part, rest[:n]...)
		rest = rest[n:]
		if end >= 0 || len(l.part) == maxLine {
			l.tell()
		}
	}
	return len(p), nil
}

// tell passes on a line, unless it is empty.
func (l *lines) tell() {
	if text := string(bytes.TrimRight(l.part, "\r\n")); text != "" {
		l.to.Step(api.StepEvent{Name: l.name, Detail: text})
	}
	l.part = l.part[:0]
}
