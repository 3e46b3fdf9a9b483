package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// openRCReady says whether OpenRC has reached its default runlevel: it names
// the level it is at or going to in softlevel, and keeps rc.starting while it
// is still starting its services.
func openRCReady(run string) bool {
	level, err := os.ReadFile(filepath.Join(run, "openrc/softlevel"))
	if err != nil || strings.TrimSpace(string(level)) != "default" {
		return false
	}
	_, err = os.Stat(filepath.Join(run, "openrc/rc.starting"))
	return os.IsNotExist(err)
}

// waitForOpenRC waits until OpenRC, whose state is in run/openrc, is ready.
func waitForOpenRC(run string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("cannot watch OpenRC: %w", err)
	}
	defer unix.Close(fd)
	const changes = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM | unix.IN_CLOSE_WRITE
	if _, err := unix.InotifyAddWatch(fd, run, changes); err != nil {
		return fmt.Errorf("cannot watch OpenRC: %w", err)
	}
	buf := make([]byte, 16<<10)
	for {
		// The directory appears when OpenRC starts; watching it twice is one watch.
		_, _ = unix.InotifyAddWatch(fd, filepath.Join(run, "openrc"), changes)
		if openRCReady(run) {
			return nil
		}
		if _, err := unix.Read(fd, buf); err != nil && err != unix.EINTR {
			return fmt.Errorf("cannot watch OpenRC: %w", err)
		}
	}
}
