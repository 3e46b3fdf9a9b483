package guestinit

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// onlineProcessors puts the processors to work that the kernel was told to
// leave off while it boots (maxcpus=1); dir is /sys/devices/system/cpu. A guest
// that can't have one of them says so and lives on.
//
// It is done while the agent starts, and before that is preferred. It takes the
// kernel's own threads, which get no turn beside a preferred program on a single
// processor; and the new processor measures its delay loop by the first one's
// ticks, of which an idle one has none.
func onlineProcessors(dir string) {
	for n := 1; ; n++ { // the first has no switch
		err := online(filepath.Join(dir, "cpu"+strconv.Itoa(n), "online"))
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			mark(cannot("use processor "+strconv.Itoa(n), err).Error())
		}
	}
}

// online turns a processor's switch on; see cpu_hotplug.rst in Linux.
func online(file string) error {
	state, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(state)) != "0" {
		return err
	}
	return writeFile(file, "1")
}
