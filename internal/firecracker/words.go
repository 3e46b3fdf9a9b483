package firecracker

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// tailSize is how much of stderr and of the log is kept of a VMM's words.
const tailSize = 2 << 10

// A guest can have its VMM log without end. So the log is a FIFO, which takes
// no room, and it is emptied no faster than this; the VMM drops what does not
// fit into it meanwhile.
const (
	readSize  = 16 << 10
	readPause = 10 * time.Millisecond
)

// words hears what a VMM logs and keeps the end of it.
type words struct {
	fifo *os.File
	done chan struct{} // closed when nothing more is heard
	last []byte        // whole then
}

// hear begins to empty the log of the VMM in dir. Of one that can't be opened
// nothing is heard: that is no reason to be without the VMM.
func hear(dir string) *words {
	w := &words{done: make(chan struct{})}
	var err error
	if w.fifo, err = openFIFO(filepath.Join(dir, Log)); err != nil {
		close(w.done)
		return w
	}
	go w.listen()
	return w
}

func (w *words) listen() {
	defer close(w.done)
	defer w.fifo.Close()
	heard := make([]byte, readSize)
	for {
		n, err := w.fifo.Read(heard)
		w.keep(heard[:n])
		if err != nil {
			break
		}
		time.Sleep(readPause)
	}
	w.keepRest(heard)
}

// maxPipe is as much as a user can have a pipe hold.
const maxPipe = 1 << 20

// keepRest takes what is in the FIFO by now.
func (w *words) keepRest(heard []byte) {
	raw, err := w.fifo.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		for range maxPipe / len(heard) {
			n, err := unix.Read(int(fd), heard)
			if err != nil {
				return
			}
			w.keep(heard[:n])
		}
	})
}

func (w *words) keep(heard []byte) {
	w.last = append(w.last, heard...)
	if more := len(w.last) - tailSize; more > 0 {
		w.last = w.last[:copy(w.last, w.last[more:])]
	}
}

// stop has the listener end.
func (w *words) stop() {
	if w.fifo != nil {
		_ = w.fifo.SetReadDeadline(time.Unix(1, 0)) // it fails where the listener has ended
	}
}

// end gives the end of all that was heard.
func (w *words) end() string {
	w.stop()
	<-w.done
	return readable(w.last)
}

// LastWords is the end of what the VMM wrote to stderr and to its log; it is
// empty when it wrote nothing. What it logs afterwards is not heard any more.
func (p *Process) LastWords() string {
	var said []string
	for _, text := range []string{Complaint(p.dir), labelled(Log, p.words.end())} {
		if text != "" {
			said = append(said, text)
		}
	}
	return strings.Join(said, "\n")
}

// Complaint is the end of what the VMM in dir wrote to stderr; it is empty when
// it wrote nothing.
func Complaint(dir string) string { return labelled(ErrorLog, tail(filepath.Join(dir, ErrorLog))) }

func labelled(name, text string) string {
	if text == "" {
		return ""
	}
	return name + ": " + text
}

// readable is text without the line in whose midst it may begin.
func readable(text []byte) string {
	cut := len(text) == tailSize
	text = bytes.TrimSpace(text)
	if i := bytes.IndexByte(text, '\n'); cut && i >= 0 {
		text = text[i+1:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))
}

// tail is the end of a file that the VMM may have put there: nothing of a pipe,
// which may never end.
func tail(path string) string {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	if info.Size() > tailSize {
		_, _ = file.Seek(-tailSize, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(file, tailSize))
	return readable(text)
}
