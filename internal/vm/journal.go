package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/banger-vm/banger/api"
)

// The journal of a VM is its console and the daemon's own words about it, in
// order: two files of journalLimit bytes at most, the older one replaced when
// the newer one is full, so that a guest can't fill the host's disk with it.
const (
	journalLimit = 1 << 20
	lineLimit    = 4 << 10 // bytes of one line's text: a console's longer one is cut into several, any other is clipped
	// storedLimit is more than a line takes as JSON, where a byte may take six.
	storedLimit = 8 * lineLimit
)

type journal struct {
	path string

	mu        sync.Mutex
	file      *os.File // nil where it could not be opened, or the journal is closed
	size      int64
	closed    bool
	followers map[chan api.LogLine]struct{}
}

func journalPath(dir string) string { return filepath.Join(dir, "log.ndjson") }

// openJournal gives the journal of a VM's directory. With an error it has no file,
// and opens it when there is something to write.
func openJournal(dir string) (*journal, error) {
	j := &journal{path: journalPath(dir), followers: map[chan api.LogLine]struct{}{}}
	return j, j.open()
}

func (j *journal) open() error {
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the VM's log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("cannot look at the VM's log: %w", err)
	}
	j.file, j.size = f, info.Size()
	return nil
}

// add writes one line and hands it to the followers; one who does not keep up
// misses lines. A log that can't be written must not stop a VM: the line is
// lost.
func (j *journal) add(source, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	line := api.LogLine{Time: time.Now().UTC(), Source: source, Text: clip(text, lineLimit)}
	data, err := json.Marshal(line)
	if err != nil {
		return
	}
	for f := range j.followers {
		select {
		case f <- line:
		default:
		}
	}
	data = append(data, '\n')
	if j.closed || !j.hasRoom(int64(len(data))) {
		return
	}
	if _, err := j.file.Write(data); err != nil {
		_ = j.file.Truncate(j.size) // half a line would spoil the next one
		return
	}
	j.size += int64(len(data))
}

// quote adds the lines of a text.
func (j *journal) quote(source, text string) {
	for line := range strings.Lines(text) {
		j.add(source, strings.TrimRight(line, "\n"))
	}
}

// hasRoom makes room for a line. Where that fails the next line tries again.
func (j *journal) hasRoom(size int64) bool {
	if j.file == nil && j.open() != nil {
		return false
	}
	if j.size+size <= journalLimit {
		return true
	}
	if err := os.Rename(j.path, j.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return false
	}
	j.file.Close()
	j.file = nil
	return j.open() == nil
}

// read gives what both files hold, and with it a channel of the lines that
// come afterwards, until stop is called or the log is closed, which closes the
// channel.
func (j *journal) read() (past []api.LogLine, more <-chan api.LogLine, stop func()) {
	follower := make(chan api.LogLine, 1024)
	j.mu.Lock()
	defer j.mu.Unlock()
	past = append(readLines(j.path+".1"), readLines(j.path)...)
	if j.closed {
		close(follower)
	} else {
		j.followers[follower] = struct{}{}
	}
	return past, follower, func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.followers, follower)
	}
}

// startsAgain is what the daemon says in the journal when a VM's life begins.
var startsAgain = said(Record{State: api.StateStarting})

// lifeOfConsole gives the lines that the guest has written on its console since
// the VM's last start.
func (j *journal) lifeOfConsole() []string {
	past, _, stop := j.read()
	stop()
	var texts []string
	for _, line := range past {
		switch {
		case line.Source == "daemon" && line.Text == startsAgain:
			texts = nil
		case line.Source == "console":
			texts = append(texts, line.Text)
		}
	}
	return texts
}

// lastOfConsole gives the last n of these lines.
func (j *journal) lastOfConsole(n int) []string {
	texts := j.lifeOfConsole()
	return texts[max(0, len(texts)-n):]
}

// quoteLimit is how much of a line is quoted in an error.
const quoteLimit = 200

// quoted gives these lines as the end of an error.
func (j *journal) quoted(n int) string {
	var quoted strings.Builder
	for _, line := range j.lastOfConsole(n) {
		quoted.WriteString("\n  " + clip(line, quoteLimit))
	}
	return quoted.String()
}

func (j *journal) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
	j.closed = true
	for f := range j.followers {
		delete(j.followers, f)
		close(f)
	}
}

// readLines gives the lines of a file. What is too long to be one, or is none, is
// skipped; that the rest can't be read is the last line.
func readLines(path string) []api.LogLine {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []api.LogLine{unread(err)}
	}
	defer f.Close()
	var lines []api.LogLine
	in := bufio.NewReaderSize(f, storedLimit)
	for begins := true; ; {
		data, err := in.ReadSlice('\n')
		ends := !errors.Is(err, bufio.ErrBufferFull)
		var line api.LogLine
		if begins && ends && json.Unmarshal(data, &line) == nil {
			lines = append(lines, line)
		}
		switch {
		case errors.Is(err, io.EOF):
			return lines
		case err != nil && ends:
			return append(lines, unread(err))
		}
		begins = ends
	}
}

func unread(err error) api.LogLine {
	return api.LogLine{Time: time.Now().UTC(), Source: "daemon", Text: fmt.Sprintf("cannot read the VM's log: %v", err)}
}

// clip gives the beginning of a text that takes more bytes than it may.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	const more = "…"
	end := most - len(more)
	for back := 1; back < utf8.UTFMax && !utf8.RuneStart(text[end]); back++ {
		end-- // not in the midst of a character
	}
	return text[:end] + more
}
