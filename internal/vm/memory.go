package vm

import (
	"fmt"
	"os"
	"strings"

	"github.com/banger-vm/banger/api"
)

// hostMemory is what the host has, in MiB.
type hostMemory struct{ total, available int64 }

// readHostMemory reads proc_meminfo(5).
func readHostMemory() (hostMemory, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return hostMemory{}, fmt.Errorf("cannot read how much memory the host has: %w", err)
	}
	var h hostMemory
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			h.total = kib >> 10
		}
		if n, _ := fmt.Sscanf(line, "MemAvailable: %d kB", &kib); n == 1 {
			h.available = kib >> 10
		}
	}
	return h, nil
}

// memoryWarning says that a VM may take more memory than the host has; "" when
// it may not. Memory that guests do not use costs nothing, so it is no error.
func (m *Manager) memoryWarning(id string) string {
	host, err := readHostMemory()
	if err != nil {
		m.Log.Warn("cannot compare the VMs' memory with the host's", "error", err)
		return ""
	}
	var promised, own int64
	for _, v := range m.all() {
		switch r := v.record(); {
		case r.ID == id:
			own = r.Spec.MemoryMiB
		case r.State == api.StateStarting || r.State == api.StateRunning || r.State == api.StatePaused || r.State == api.StateStopping:
			promised += r.Spec.MemoryMiB
		}
	}
	return overcommitted(promised, own, host)
}

// overcommitted compares what a VM may take, beside what is promised to others
// already, with the host. All are MiB.
func overcommitted(promised, own int64, host hostMemory) string {
	const end = "; when they use it, the host's kernel ends one of them"
	switch {
	case promised+own > host.total && promised > 0:
		return fmt.Sprintf("this VM may take %d MiB of memory and those that run %d MiB, %d MiB together, and the host has %d MiB (%d MiB are available)%s",
			own, promised, promised+own, host.total, host.available, end)
	case own > host.total:
		return fmt.Sprintf("this VM may take %d MiB of memory, and the host has %d MiB (%d MiB are available)", own, host.total, host.available)
	case own > host.available:
		return fmt.Sprintf("this VM may take %d MiB of memory, and %d MiB of the host's %d MiB are available", own, host.available, host.total)
	default:
		return ""
	}
}
