package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/banger-vm/banger/api"
)

// setAside is in the name of a directory whose record could not be trusted.
const setAside = ".set-aside-"

func leftovers(_ context.Context, o Options) []api.Finding {
	var found []api.Finding
	orphans, err := o.orphans()
	if err != nil {
		found = append(found, api.Finding{Check: "leftovers", Level: api.LevelWarning, Detail: err.Error(), Hint: "see that bangerd may read these directories"})
	}
	if len(orphans) > 0 {
		found = append(found, api.Finding{Check: "leftovers", Level: api.LevelWarning,
			Detail: "no VM owns " + strings.Join(orphans, ", "), Hint: "`banger doctor --fix` removes these directories and ends what runs in them"})
	}
	if aside, err := filepath.Glob(filepath.Join(o.Config.Paths.VMs(), "*"+setAside+"*")); err == nil && len(aside) > 0 {
		found = append(found, api.Finding{Check: "leftovers", Level: api.LevelWarning,
			Detail: "VMs whose record could not be read were set aside: " + strings.Join(aside, ", "),
			Hint:   "`banger daemon logs` says why; their disks are untouched. Once its vm.json is mended, a directory that is renamed to what its name begins with is a VM again after `banger daemon restart`; delete the directories that nobody misses"})
	}
	if len(found) == 0 {
		return one("leftovers", api.LevelOK, "none", "")
	}
	return found
}

// orphans are the directories of running VMs that no VM owns. The daemon
// removes them when it starts; they are left where that failed.
func (o Options) orphans() ([]string, error) {
	running := filepath.Join(o.Config.Paths.Runtime, "vm")
	// These first: a VM has its own directory before and after it has one here.
	entries, err := os.ReadDir(running)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot look for leftovers: %w", err)
	}
	var orphans []string
	for _, e := range entries {
		if _, err := os.Lstat(filepath.Join(o.Config.Paths.VMs(), e.Name())); errors.Is(err, os.ErrNotExist) {
			orphans = append(orphans, filepath.Join(running, e.Name()))
		}
	}
	return orphans, nil
}

func (o Options) removeLeftovers(ctx context.Context) ([]string, error) {
	orphans, err := o.orphans()
	var done []string
	for _, dir := range orphans {
		if removeErr := errors.Join(o.EndIn(ctx, dir), os.RemoveAll(dir)); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove %s: %w", dir, removeErr))
			continue
		}
		done = append(done, "removed "+dir+", which no VM owned")
	}
	return done, err
}
