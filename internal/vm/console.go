package vm

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// lastWord is what a guest kernel says last.
type lastWord string

const (
	wordNone     lastWord = ""
	wordPowerOff lastWord = "power off" // the VMM does not end by itself
	wordHalt     lastWord = "halt"      // neither does it here
	wordReboot   lastWord = "reboot"
	wordPanic    lastWord = "panic" // banger's command line reboots after it
)

// The kernel prints these under `quiet loglevel=4` too: kernel/reboot.c and
// kernel/panic.c.
var (
	// stamp is the time, and maybe the task, before a line of the kernel's
	// (printk.time, CONFIG_PRINTK_CALLER).
	stamp     = regexp.MustCompile(`\[ *[0-9]+\.[0-9]+\](\[ *[TC][0-9]+\])? `)
	lastWords = []struct {
		begins string
		word   lastWord
	}{
		{"reboot: Power down", wordPowerOff},
		{"reboot: Power off not available", wordPowerOff}, // Firecracker's machine has no such switch
		{"reboot: System halted", wordHalt},
		{"reboot: Restarting system", wordReboot},
		{"Kernel panic - not syncing", wordPanic},
	}
)

// wordOf finds a last word in one console line, and what the kernel says there:
// at the line's begin, or behind a stamp anywhere in it, for the kernel does not
// wait for the end of a line that a program is writing.
func wordOf(line string) (word lastWord, about string) {
	begins := []int{0}
	for _, s := range stamp.FindAllStringIndex(line, -1) {
		begins = append(begins, s[1])
	}
	for _, begin := range begins {
		about = strings.TrimRight(line[begin:], "\r")
		for _, w := range lastWords {
			if strings.HasPrefix(about, w.begins) {
				return w.word, about
			}
		}
	}
	return wordNone, ""
}

// consoleBuffer is how much a guest may say while no daemon listens; what
// comes after that is dropped by the VMM.
const consoleBuffer = 1 << 20

// console drains a guest's serial console, a FIFO in the VM's directory, into
// the VM's journal and listens for the kernel's last word.
type console struct {
	path string
	fifo *os.File
	log  *journal
	mark string // behind the VMM's last byte, see finish

	mu    sync.Mutex
	word  lastWord
	about string        // the line the word was in
	heard chan struct{} // gets something with each word that may be the last
	idle  chan struct{} // closed when the reader has ended
}

func consolePath(runDir string) string { return filepath.Join(runDir, "console") }

// makeConsole makes the FIFO and opens it for the VMM: read-write, so that it
// never ends, and its own open file description, which a VMM makes
// non-blocking.
func makeConsole(runDir string) (*os.File, error) {
	path := consolePath(runDir)
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("cannot make the console's pipe: %w", err)
	}
	f, err := openFIFO(path)
	if err != nil {
		return nil, err
	}
	// Best effort: the limit of an unprivileged user may be lower.
	_, _ = unix.FcntlInt(f.Fd(), unix.F_SETPIPE_SZ, consoleBuffer)
	return f, nil
}

func openFIFO(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the console's pipe: %w", err)
	}
	if info, err := f.Stat(); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		f.Close()
		return nil, fmt.Errorf("cannot use %s as a console: it is not a pipe", path)
	}
	return f, nil
}

// listen starts to drain the console of a VM.
func listen(runDir string, log *journal) (*console, error) {
	f, err := openFIFO(consolePath(runDir))
	if err != nil {
		return nil, err
	}
	c := &console{path: consolePath(runDir), fifo: f, log: log, mark: rand.Text(), heard: make(chan struct{}, 1), idle: make(chan struct{})}
	go c.drain()
	return c, nil
}

func (c *console) drain() {
	defer close(c.idle)
	buf := make([]byte, 16<<10)
	var line []byte
	for {
		n, err := c.fifo.Read(buf)
		line = append(line, buf[:n]...)
		for {
			head, rest, ok := cutLine(line)
			if !ok {
				break
			}
			if head == c.mark {
				return
			}
			c.hear(head)
			line = rest
		}
		if err != nil {
			return
		}
	}
}

// wordRoom is more than a last word and its stamp take of a line.
const wordRoom = 64

// cutLine takes the first line, or as much as a line may hold, off data. What
// might be a last word is not cut in two.
func cutLine(data []byte) (line string, rest []byte, ok bool) {
	i := bytes.IndexByte(data, '\n')
	switch {
	case i >= 0 && i <= lineLimit:
		return strings.TrimRight(string(data[:i]), "\r"), data[i+1:], true
	case len(data) > lineLimit:
		cut := lineLimit
		if stamp := bytes.IndexByte(data[lineLimit-wordRoom:lineLimit], '['); stamp >= 0 {
			cut += stamp - wordRoom
		}
		return string(data[:cut]), data[cut:], true
	default:
		return "", data, false
	}
}

func (c *console) hear(line string) {
	if line != "" {
		c.log.add("console", line)
	}
	if word, about := wordOf(line); word != wordNone {
		c.take(word, about)
	}
}

// take takes what may be the last word: the latest, for a program can write one
// too.
func (c *console) take(word lastWord, about string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if explains(c.word, word) {
		return
	}
	c.word, c.about = word, about
	select {
	case c.heard <- struct{}{}:
	default: // who listens looks at the latest one
	}
}

// explains says whether a word is the reason of the one behind it: a panic is
// followed by a reboot.
func explains(word, next lastWord) bool { return word == wordPanic && next == wordReboot }

// doubt forgets a last word until it is believed. One that comes meanwhile
// counts.
func (c *console) doubt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.word, c.about = wordNone, ""
}

// believe takes back a doubt.
func (c *console) believe(word lastWord, about string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.word == wordNone {
		c.word, c.about = word, about
	}
}

// recall takes up the last word that an earlier daemon heard and did not live
// to act on.
func (c *console) recall() {
	if word, about := c.log.lastWord(); word != wordNone {
		c.take(word, about)
	}
}

// lastWord finds the kernel's last word, and the line it was in, among the
// console's lines since the VM's last start.
func (j *journal) lastWord() (word lastWord, about string) {
	for _, line := range j.lifeOfConsole() {
		if next, said := wordOf(line); next != wordNone && !explains(word, next) {
			word, about = next, said
		}
	}
	return word, about
}

// diskError is what a guest's kernel says of a disk that gives an error (block/blk-mq.c).
const diskError = "I/O error, dev vd"

// diskGone says whether a disk gave the guest errors since the VM's last start.
func (j *journal) diskGone() bool {
	return slices.ContainsFunc(j.lifeOfConsole(), func(line string) bool { return strings.Contains(line, diskError) })
}

// last gives the kernel's last word so far and the line it was in.
func (c *console) last() (lastWord, string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.word, c.about
}

// finish reads what is left in the pipe of a VMM that has ended, and closes
// it. The pipe has no end while anybody holds it open, so a mark that the guest
// can't know is written behind its last word.
func (c *console) finish() {
	if _, err := c.fifo.WriteString("\n" + c.mark + "\n"); err == nil {
		<-c.idle
	}
	c.letGo()
}

// letGo stops draining; the pipe and what comes into it stay.
func (c *console) letGo() {
	c.fifo.Close()
	<-c.idle
}
