package guestinit

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// initPath is where an image's init is looked for; links are followed inside
// the image's root.
const initPath = "/sbin/init"

// initKind is what becomes of PID 1, in the words that the agent tells the
// host.
type initKind string

const (
	initSystemd initKind = "systemd"
	initOpenRC  initKind = "openrc"
	initBusybox initKind = "busybox"
	initOther   initKind = "other" // sysvinit and its like: /sbin/poweroff is there
	initNone    initKind = "none"  // this program stays
)

// findInit looks at the root filesystem, which is / by now.
func findInit() initKind {
	path, ok := resolveProgram(initPath)
	if !ok {
		return initNone
	}
	return kindOf(path, exists("/sbin/openrc") || exists("/usr/sbin/openrc"))
}

// kindOf tells an init by the name of the program that /sbin/init leads to.
func kindOf(path string, hasOpenRC bool) initKind {
	name := lastElement(path)
	switch {
	case strings.Contains(name, "systemd"):
		return initSystemd
	case hasOpenRC, strings.Contains(name, "openrc"):
		return initOpenRC
	case strings.Contains(name, "busybox"):
		return initBusybox
	}
	return initOther
}

// resolveProgram follows links to an executable file.
func resolveProgram(path string) (string, bool) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0 {
		return "", false
	}
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	return real, err == nil
}
