package cli

import (
	"fmt"
	"regexp"
	"sync"

	"github.com/banger-vm/banger/internal/config"
)

// They are compiled when a name is checked: most commands check none, and
// compiling is dear beside what such a command has to do.
var (
	label = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`) })
	id    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{8}$`) })
)

// checkName holds a new VM's name to a DNS label, since it becomes the guest's
// host name. "" lets the daemon make one up.
func checkName(name string) error {
	const hint = "use 1 to 63 lower-case letters, digits and hyphens, with a letter or digit at both ends"
	switch {
	case name == "":
		return nil
	case !label().MatchString(name):
		return bad(hint, "%q can't be a VM's name", name)
	case id().MatchString(name):
		return bad("add a letter or a hyphen: eight hexadecimal digits are an id", "%q can't be a VM's name", name)
	}
	return nil
}

// parseSize reads a flag like --memory. "" takes the configured default.
func parseSize(flag, text string, least int64) (int64, error) {
	if text == "" {
		return 0, nil
	}
	mib, err := config.ParseMiB(text)
	if err != nil {
		return 0, bad("", "--%s: %v", flag, err)
	}
	if mib < least {
		return 0, bad(fmt.Sprintf("a number alone is in MiB; with a unit it is like --%s 2G", flag), "--%s %s is too small: the least is %s", flag, text, config.FormatMiB(least))
	}
	return mib, nil
}
