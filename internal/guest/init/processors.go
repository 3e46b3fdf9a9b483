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
// It is done before the agent starts: this takes the kernel's own threads, which
// get no turn on a single processor that the agent keeps busy.
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
