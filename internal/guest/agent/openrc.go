package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	changes, err := newWatch(run)
	if err != nil {
		return err
	}
	defer changes.close()
	for {
		_ = changes.add(filepath.Join(run, "openrc")) // it appears when OpenRC starts
		if openRCReady(run) {
			return nil
		}
		if err := changes.next(); err != nil {
			return fmt.Errorf("cannot wait for OpenRC: %w", err)
		}
	}
}
