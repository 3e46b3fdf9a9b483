package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// initFile is where banger-init, which starts the agent just before it hands
// over, says to what.
const initFile = "/run/banger/init"

// readInit reads which init the image brings. One that is not named is treated
// like any that banger knows nothing about.
func readInit(path string) proto.InitKind {
	word, err := os.ReadFile(path)
	if err != nil {
		return proto.InitOther
	}
	switch kind := proto.InitKind(strings.TrimSpace(string(word))); kind {
	case proto.InitSystemd, proto.InitOpenRC, proto.InitBusybox, proto.InitNone:
		return kind
	}
	return proto.InitOther
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

// signalsOf returns the orders that this kind of init takes, nil for one that
// takes none.
func signalsOf(init proto.InitKind) signals {
	switch init {
	case proto.InitSystemd:
		return systemdSignals
	case proto.InitNone, proto.InitBusybox:
		return busyboxSignals
	}
	return nil
}

// shutdownTimeout bounds how long process 1 is given to become able to take an
// order: systemd needs a moment before it listens to signals.
const shutdownTimeout = 10 * time.Second

// shutDown asks process 1 to go down for the reason r.
func (a *Agent) shutDown(r proto.Reason) error {
	if a.init != proto.InitNone {
		if err := a.kernel.AwaitHandOver(shutdownTimeout); err != nil {
			return err
		}
	}
	if orders := signalsOf(a.init); orders != nil {
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
