package doctor

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"path/filepath"

	"github.com/banger-vm/banger/api"
)

const gib = 1 << 30

// A first run keeps packages, an image, a kernel and a disk: below leastFree
// it will not fit, below goodFree a VM that works hard soon fills the rest.
const (
	leastFree = 3 * gib
	goodFree  = 10 * gib
)

func space(_ context.Context, o Options) []api.Finding {
	var found []api.Finding
	seen := map[uint64]bool{}
	for _, dir := range []string{o.Config.Paths.Data, o.Config.Paths.State, o.Config.Paths.Cache} {
		free, device, err := o.Host.free(dir)
		if err != nil {
			found = append(found, api.Finding{Check: "disk space", Level: api.LevelWarning,
				Detail: fmt.Sprintf("the space at %s is not known: %v", dir, err), Hint: "see that it can be written to"})
			continue
		}
		if !seen[device] {
			seen[device] = true
			found = append(found, roomAt(dir, free))
		}
	}
	return found
}

func roomAt(dir string, free uint64) api.Finding {
	f := api.Finding{Check: "disk space", Level: api.LevelOK, Detail: fmt.Sprintf("%.1f GiB free for %s", float64(free)/gib, dir)}
	switch {
	case free < leastFree:
		f.Level, f.Hint = api.LevelError, "make room, `banger vm prune` deletes stopped VMs; or set XDG_DATA_HOME, XDG_STATE_HOME and XDG_CACHE_HOME to a larger filesystem"
	case free < goodFree:
		f.Level, f.Hint = api.LevelWarning, "make room: VMs are paused before the filesystem is full"
	}
	return f
}

// free asks the nearest directory that is there already.
func (h Host) free(dir string) (bytes, device uint64, err error) {
	for {
		bytes, device, err = h.Free(dir)
		if err == nil || dir == filepath.Dir(dir) {
			return bytes, device, err
		}
		dir = filepath.Dir(dir)
	}
}

func memory(_ context.Context, o Options) []api.Finding {
	info, err := o.Host.ReadFile("/proc/meminfo")
	if err != nil {
		return one("memory", api.LevelWarning, fmt.Sprintf("it is not known how much is free: %v", err), "")
	}
	free := available(info)
	if free < o.Config.MemoryMiB {
		return one("memory", api.LevelWarning, fmt.Sprintf("%d MiB are available, a VM gets %d MiB", free, o.Config.MemoryMiB),
			"end other programs, or set default_memory in the config to less")
	}
	return one("memory", api.LevelOK, fmt.Sprintf("%d MiB are available, a VM gets %d MiB", free, o.Config.MemoryMiB), "")
}

// available reads MemAvailable of proc_meminfo(5), in MiB.
func available(info []byte) int64 {
	for lines := bufio.NewScanner(bytes.NewReader(info)); lines.Scan(); {
		var kib int64
		if _, err := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &kib); err == nil {
			return kib / 1024
		}
	}
	return 0
}
