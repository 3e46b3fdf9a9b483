//go:build hosttest

package lives

import (
	"bufio"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// journal is what a station's daemons have said. The zero value is ready.
type journal struct {
	mu     sync.Mutex
	lines  []string
	longer chan struct{} // closed when there is one line more
}

// keep takes down what a daemon, and what it leaves running, says.
func (j *journal) keep(daemon io.ReadCloser) {
	defer daemon.Close()
	for lines := bufio.NewScanner(daemon); lines.Scan(); {
		j.mu.Lock()
		j.lines = append(j.lines, lines.Text())
		if j.longer != nil {
			close(j.longer)
			j.longer = nil
		}
		j.mu.Unlock()
	}
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// end is where the next line will be.
func (j *journal) end() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lines)
}

// from gives the lines from one on, and what is closed when there are more.
func (j *journal) from(first int) ([]string, <-chan struct{}) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.longer == nil {
		j.longer = make(chan struct{})
	}
	return j.lines[first:], j.longer
}

// await gives the matches in the first line from one on that matches.
func (j *journal) await(t *testing.T, first int, pattern string) []string {
	t.Helper()
	form := regexp.MustCompile(pattern)
	for late := time.After(patience); ; {
		lines, longer := j.from(first)
		for _, line := range lines {
			if found := form.FindStringSubmatch(line); found != nil {
				return found
			}
		}
		first += len(lines)
		select {
		case <-longer:
		case <-late:
			t.Fatalf("bangerd never said %s", pattern)
		}
	}
}
