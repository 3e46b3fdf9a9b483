package agent

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch waits for changes in directories.
type watch struct {
	fd   int
	file *os.File
}

func newWatch(dir string) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("cannot watch directories: %w", err)
	}
	w := &watch{fd: fd, file: os.NewFile(uintptr(fd), "inotify")}
	if err := w.add(dir); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *watch) close() { w.file.Close() }

// add has one more directory watched. One that is watched already stays so.
func (w *watch) add(dir string) error {
	const changes = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CLOSE_WRITE
	if _, err := unix.InotifyAddWatch(w.fd, dir, changes); err != nil {
		return fmt.Errorf("cannot watch %s: %w", dir, err)
	}
	return nil
}

// limit sets when waiting ends with an error.
func (w *watch) limit(end time.Time) error { return w.file.SetReadDeadline(end) }

// next waits for changes since the last ones.
func (w *watch) next() error {
	_, err := w.file.Read(make([]byte, 16<<10))
	return err
}
