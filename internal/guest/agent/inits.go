package agent

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// detectInit looks which init the image in root brings. It goes by the image,
// not by process 1: that is still banger-init when the agent starts.
func detectInit(root string) proto.InitKind {
	target, err := resolve(root, "/sbin/init")
	if err != nil {
		return proto.InitNone
	}
	switch name := filepath.Base(target); {
	case name == "systemd":
		return proto.InitSystemd
	case name == "openrc-init":
		return proto.InitOpenRC
	case isProgram(filepath.Join(root, "/sbin/openrc")):
		return proto.InitOpenRC // which busybox or sysvinit starts
	case strings.HasPrefix(name, "busybox"):
		return proto.InitBusybox
	}
	return proto.InitOther
}

// maxLinks is as many as the kernel follows.
const maxLinks = 40

// resolve follows the symbolic links of name's last element, as someone who is
// chrooted to root would, and returns the name of a program there.
func resolve(root, name string) (string, error) {
	for range maxLinks {
		target, err := os.Readlink(filepath.Join(root, name))
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(name), target)
		}
		name = filepath.Clean(target)
	}
	if !isProgram(filepath.Join(root, name)) {
		return "", fmt.Errorf("cannot find %s: %w", name, fs.ErrNotExist)
	}
	return name, nil
}

// signals are what an init takes as orders.
type signals map[proto.Reason]unix.Signal

const sigRTMIN = 34 // as the C library counts, which keeps two for itself

var (
	// systemdSignals are documented in systemd(1).
	systemdSignals = signals{
		proto.ReasonHalt:     sigRTMIN + 3,
		proto.ReasonPoweroff: sigRTMIN + 4,
		proto.ReasonReboot:   sigRTMIN + 5,
	}
	// busyboxSignals are those of busybox's init, and banger-init's as well.
	busyboxSignals = signals{
		proto.ReasonHalt:     unix.SIGUSR1,
		proto.ReasonPoweroff: unix.SIGUSR2,
		proto.ReasonReboot:   unix.SIGTERM,
	}
)

// signalsOf returns the orders that a process 1 of this name takes, nil for one
// that takes none.
func signalsOf(process1 string) signals {
	switch process1 {
	case "systemd":
		return systemdSignals
	case "banger-init", "busybox":
		return busyboxSignals
	}
	return nil
}

// shutdownTimeout bounds how long process 1 is given to become able to take an
// order: systemd needs a moment before it listens to signals.
const shutdownTimeout = 10 * time.Second

// shutDown asks process 1 to go down for the reason r.
func (a *Agent) shutDown(r proto.Reason) error {
	name, err := a.kernel.Process1()
	if err != nil {
		return err
	}
	if orders := signalsOf(name); orders != nil {
		return a.kernel.SignalProcess1(orders[r], shutdownTimeout)
	}
	return runShutdownProgram(a.path("/sbin"), r)
}

// runShutdownProgram serves the inits that take orders from a program of their
// own only: sysvinit, openrc-init, runit, s6.
func runShutdownProgram(sbin string, r proto.Reason) error {
	out, err := exec.Command(filepath.Join(sbin, string(r))).CombinedOutput()
	if err != nil {
		return fmt.Errorf("cannot ask the image's init to %s: %w: %s", r, err, proto.Clean(string(out), proto.MaxText))
	}
	return nil
}

// readyAfterConfigure says which stages an image reaches by being configured:
// all where nothing of the image starts that banger could wait for, busybox's
// init included, which tells nobody when it is done.
func readyAfterConfigure(init proto.InitKind) []proto.Stage {
	switch init {
	case proto.InitSystemd:
		return nil // its units say so
	case proto.InitOpenRC:
		return []proto.Stage{proto.StageDefault} // watchOpenRC says when it is done
	}
	return []proto.Stage{proto.StageDefault, proto.StageSystem}
}
