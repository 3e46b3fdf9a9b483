package workspace

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

// small is the longest file that is handed to another processor: one that is
// longer is written as it comes.
const small = 128 << 10

// writers writes files on all processors. Making a file costs more than its
// few bytes, so with many small files this is where the time goes.
type writers struct {
	umask uint32
	jobs  chan job
	done  sync.WaitGroup
	spare sync.Pool

	mu  sync.Mutex
	err error // the first
}

type job struct {
	path string
	stat wire.Stat
	data *[]byte
}

func newWriters(umask uint32) *writers {
	n := runtime.GOMAXPROCS(0)
	w := &writers{umask: umask, jobs: make(chan job, 16*n), spare: sync.Pool{New: func() any { return new([]byte) }}}
	for range n {
		w.done.Go(func() {
			for j := range w.jobs {
				if w.failed() == nil {
					w.fail(w.small(j))
				}
				w.spare.Put(j.data)
			}
		})
	}
	return w
}

func (w *writers) failed() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

func (w *writers) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
}

// wait ends the writers when all is written.
func (w *writers) wait() error {
	close(w.jobs)
	w.done.Wait()
	return w.failed()
}

// write makes a new file of what src gives.
func (w *writers) write(path string, s wire.Stat, src io.Reader) error {
	if err := w.failed(); err != nil {
		return err
	}
	if s.Size > small {
		return w.large(path, s, src)
	}
	data := w.spare.Get().(*[]byte)
	if int64(cap(*data)) < s.Size {
		*data = make([]byte, s.Size, max(s.Size, 8<<10))
	}
	*data = (*data)[:s.Size]
	if _, err := io.ReadFull(src, *data); err != nil {
		return err
	}
	w.jobs <- job{path, s, data}
	return nil
}

// newFile begins a file that must not be there. It goes without os.File, which
// asks the kernel twice as much for a small one.
func newFile(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return -1, fmt.Errorf("cannot make %s: %w", path, err)
	}
	return fd, nil
}

func (w *writers) small(j job) error {
	fd, err := newFile(j.path)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for data := *j.data; len(data) > 0; {
		n, err := unix.Write(fd, data)
		if err != nil {
			return fmt.Errorf("cannot write %s: %w", j.path, err)
		}
		data = data[n:]
	}
	return w.finish(fd, j.path, j.stat)
}

func (w *writers) large(path string, s wire.Stat, src io.Reader) error {
	fd, err := newFile(path)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if _, err := io.CopyBuffer(&holes{file: file}, src, make([]byte, len(blank))); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := file.Truncate(s.Size); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return w.finish(fd, path, s)
}

// holes writes a file and leaves out what is zero in it, which then takes no
// room on the disk. The file's end must be set afterwards.
type holes struct {
	file *os.File
	at   int64
}

// blank is as long as the pieces that a large file is written in.
var blank [256 << 10]byte

func (h *holes) Write(p []byte) (int, error) {
	at := h.at
	h.at += int64(len(p))
	if bytes.Equal(p, blank[:len(p)]) {
		return len(p), nil
	}
	return h.file.WriteAt(p, at)
}

// finish gives a file its mode, where the kernel has not, and its time.
func (w *writers) finish(fd int, path string, s wire.Stat) error {
	if s.Mode != 0o644&^w.umask {
		if err := unix.Fchmod(fd, s.Mode); err != nil {
			return fmt.Errorf("cannot set the mode of %s: %w", path, err)
		}
	}
	times := []unix.Timespec{unix.NsecToTimespec(s.MTime), unix.NsecToTimespec(s.MTime)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("cannot set the time of %s: %w", path, err)
	}
	return nil
}

// noUmask is more than any umask takes away, so that every mode is set.
const noUmask = 0o7777

// readUmask tells the process's umask, which can't be asked for without setting
// it.
func readUmask() uint32 {
	file, err := os.Open("/proc/self/status")
	if err != nil {
		return noUmask
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "Umask:"); ok {
			if n, err := strconv.ParseUint(strings.TrimSpace(text), 8, 32); err == nil {
				return uint32(n)
			}
		}
	}
	return noUmask
}
