package fcserver

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// logLevels are all spellings, in any case of letters; a later level says
// more. Warning is Warn.
var logLevels = []string{"Off", "Error", "Warn", "Warning", "Info", "Debug", "Trace"}

type level int

const (
	levelOff level = iota
	levelError
	levelWarn
	levelInfo
	levelDebug
	levelTrace
)

// parseLevel reads a level's name; the empty name is Info.
func parseLevel(name string) (level, bool) {
	switch strings.ToLower(name) {
	case "off":
		return levelOff, true
	case "error":
		return levelError, true
	case "warn", "warning":
		return levelWarn, true
	case "", "info":
		return levelInfo, true
	case "debug":
		return levelDebug, true
	case "trace":
		return levelTrace, true
	}
	return 0, false
}

func (l level) String() string {
	return []string{"OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE"}[l]
}

// logger writes Firecracker's log lines to a file, or to stdout as long as
// it has none:
//
//	2026-11-24T10:56:45.697458361 [<id>:<thread>:<LEVEL>:<origin>] <text>
type logger struct {
	mu         sync.Mutex
	id         string
	out        io.Writer
	most       level
	showLevel  bool
	showOrigin bool
	module     string
}

// logSettings are what the flags and PUT /logger say; nil and "" leave what
// was there, but for the level, which is Info when it is not said.
type logSettings struct {
	path       string
	level      level
	showLevel  *bool
	showOrigin *bool
	module     string
}

// set opens the file first: when it cannot, nothing else was changed but the
// level, as upstream does it.
func (l *logger) set(s logSettings) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most = s.level
	if s.path != "" {
		file, err := openNonblocking(s.path)
		if err != nil {
			return fmt.Errorf("Failed to open target file: %s", rustError(err)) //nolint:staticcheck // upstream's text
		}
		l.out = file
	}
	if s.showLevel != nil {
		l.showLevel = *s.showLevel
	}
	if s.showOrigin != nil {
		l.showOrigin = *s.showOrigin
	}
	if s.module != "" {
		l.module = s.module
	}
	return nil
}

// ownModules are what --module can choose: this program has one module, by
// upstream's two names of it.
var ownModules = []string{"firecracker", "vmm"}

func (l *logger) logf(at level, thread, format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at > l.most || !l.wants() {
		return
	}
	var origin strings.Builder
	if l.showLevel {
		fmt.Fprintf(&origin, ":%s", at)
	}
	if l.showOrigin {
		origin.WriteString(":fcserver:?")
	}
	now := time.Now().Format("2006-01-02T15:04:05.000000000")
	// A log that cannot be written is no reason to stop a machine.
	_, _ = fmt.Fprintf(l.out, "%s [%s:%s%s] %s\n", now, l.id, thread, origin.String(), fmt.Sprintf(format, args...))
}

func (l *logger) wants() bool {
	return l.module == "" || slices.ContainsFunc(ownModules, func(m string) bool { return strings.HasPrefix(m, l.module) })
}

// rawFile is written past the runtime's poller, which would wait where a full
// FIFO is to drop the line.
type rawFile int

func (f rawFile) Write(line []byte) (int, error) { return unix.Write(int(f), line) }

// openNonblocking opens a file or FIFO that must be there, so that nobody
// who fails to read it can hold the machine up.
func openNonblocking(path string) (rawFile, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return rawFile(fd), err
}
