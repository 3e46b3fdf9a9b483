package guestinit

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// config is what the kernel's command line tells this program.
type config struct {
	Base    string // banger.base: the block device with the image's filesystem, "vda"
	Cow     string // banger.cow: the copy-on-write device; "" when the base is the VM's own, writable copy
	Modules string // banger.modules: the device with the tree of /lib/modules; "" when the kernel needs none
	Disk    uint64 // banger.disk: bytes of the disk that the guest sees; 0 leaves the filesystem's size alone
}

func readConfig() (config, error) {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return config{}, cannot("read the kernel's command line", err)
	}
	return parseCmdline(string(text))
}

// parseCmdline reads banger's own parameters. As in the kernel, the last one
// of a name wins, a value may be in double quotes, and what follows " -- " is
// not the kernel's.
func parseCmdline(text string) (config, error) {
	var conf config
	for _, field := range strings.Fields(text) {
		if field == "--" {
			break
		}
		key, value, _ := strings.Cut(field, "=")
		if err := conf.set(key, strings.Trim(value, `"`)); err != nil {
			return config{}, err
		}
	}
	if conf.Base == "" {
		return config{}, errors.New("cannot find the root disk: the kernel's command line has no banger.base=")
	}
	return conf, nil
}

func (c *config) set(key, value string) error {
	switch key {
	case "banger.base":
		c.Base = value
	case "banger.cow":
		c.Cow = value
	case "banger.modules":
		c.Modules = value
	case "banger.disk":
		bytes, err := strconv.ParseUint(value, 10, 63)
		if err != nil {
			return errors.New("cannot read banger.disk=" + value + ": it must be a number of bytes")
		}
		c.Disk = bytes
	}
	return nil
}
