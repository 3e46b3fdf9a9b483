package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// writable tries to write where banger keeps things: a filesystem may have
// become read-only after an error of its disk, or be full in a way that its
// free space does not show.
func writable(_ context.Context, o Options) []api.Finding {
	var found []api.Finding
	for _, dir := range []string{o.Config.Paths.State, o.Config.Paths.Data, o.Config.Paths.Cache, o.Config.Paths.Runtime} {
		if err := o.Host.Write(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
			found = append(found, api.Finding{Check: "directories", Level: api.LevelError,
				Detail: fmt.Sprintf("cannot write to %s: %v", dir, plain(err)), Hint: whyNotWritten(err)})
		}
	}
	if len(found) == 0 {
		return one("directories", api.LevelOK, "can be written to", "")
	}
	return found
}

func plain(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

func whyNotWritten(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "see `dmesg` for why its filesystem is read-only, and mount it read-write; or set XDG_STATE_HOME, XDG_DATA_HOME and XDG_CACHE_HOME to another"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "make room, also for new files (`df -i`); `banger vm prune` deletes stopped VMs"
	}
	return "see that the directory is bangerd's to write to"
}

// writeIn makes a file with something in it, and removes it.
func writeIn(dir string) error {
	file, err := os.CreateTemp(dir, ".doctor-")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(make([]byte, 4096))
	return errors.Join(err, file.Close())
}
