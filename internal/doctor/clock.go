package doctor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// slack is how far the clock may be behind what was written before: less is a
// clock that was only corrected.
const slack = time.Minute

// clock tells of a clock that is behind: the archive's signatures are not valid
// yet then, and guests get the wrong time.
func clock(_ context.Context, o Options) []api.Finding {
	now := time.Now()
	if what, latest := o.latest(); latest.Sub(now) > slack {
		return one("clock", api.LevelWarning,
			fmt.Sprintf("it says %s, but %s is of %s", now.UTC().Format(time.DateTime), what, latest.UTC().Format(time.DateTime)),
			"set it, such as with `timedatectl set-ntp true`: signatures of packages and certificates are refused with a wrong clock, and guests take the time from it")
	}
	if synchronized, err := o.Host.Synchronized(); err == nil && !synchronized {
		return one("clock", api.LevelInfo, "nothing keeps it right", "`timedatectl set-ntp true`, or chrony, keeps it right; guests take the time from it")
	}
	return one("clock", api.LevelOK, "right, as far as it can be told", "")
}

// latest is the newest thing that must be of the past. What bangerd writes all
// the time is of no use: it is written by the same clock.
func (o Options) latest() (what string, when time.Time) {
	if built := buildTime(); built.After(when) {
		what, when = "this build of banger", built
	}
	paths := o.Config.Paths
	for _, pattern := range []string{
		filepath.Join(o.Companions, "*"),
		filepath.Join(paths.VMs(), "*", "vm.json"),
		filepath.Join(paths.Images(), "*", "image.json"),
		filepath.Join(paths.Kernels(), "*", "kernel.json"),
	} {
		files, _ := filepath.Glob(pattern) // fails on a bad pattern only
		for _, file := range files {
			if info, err := os.Stat(file); err == nil && info.ModTime().After(when) {
				what, when = file, info.ModTime()
			}
		}
	}
	return what, when
}

// buildTime is that of the commit that this program was built from, or zero.
func buildTime() time.Time {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return time.Time{}
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.time" {
			built, _ := time.Parse(time.RFC3339, s.Value)
			return built
		}
	}
	return time.Time{}
}

// synchronized asks the kernel whether a program keeps its clock right.
func synchronized() (bool, error) {
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, err
	}
	return t.Status&unix.STA_UNSYNC == 0, nil
}
