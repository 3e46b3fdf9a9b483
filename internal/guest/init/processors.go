package guestinit

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// onlineProcessors puts the processors to work that the kernel was told to
// leave off while it boots (maxcpus=1); dir is /sys/devices/system/cpu. It tells
// which the guest can't have, and lives on without.
//
// It is done while the agent starts, and before that is preferred. It takes the
// kernel's own threads, which get no turn beside a preferred program on a single
// processor; and the new processor measures its delay loop by the first one's
// ticks, of which an idle one has none.
func onlineProcessors(dir string) []error {
	var failed []error
	for n := 1; ; n++ { // the first has no switch
		err := online(filepath.Join(dir, "cpu"+strconv.Itoa(n), "online"))
		switch {
		case errors.Is(err, os.ErrNotExist) && n == 1 && someAreOff(dir):
			return []error{errors.New("the kernel can't add processors: it has no CONFIG_HOTPLUG_CPU")}
		case errors.Is(err, os.ErrNotExist):
			return failed
		case err != nil:
			failed = append(failed, cannot("use processor "+strconv.Itoa(n), err))
		}
	}
}

// someAreOff says whether the kernel knows of processors that do not work. It
// lists also those that it has no directories for.
func someAreOff(dir string) bool {
	list, err := os.ReadFile(filepath.Join(dir, "offline"))
	return err == nil && strings.TrimSpace(string(list)) != ""
}

// online turns a processor's switch on; see cpu_hotplug.rst in Linux.
func online(file string) error {
	state, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(state)) != "0" {
		return err
	}
	return writeFile(file, "1")
}
