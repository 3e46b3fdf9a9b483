package fcserver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// flag is one of Firecracker's options. There is no --name=value form.
type flag struct {
	name       string
	takesValue bool
	initial    string
	requires   string
	forbids    string
}

var flags = []flag{
	{name: "api-sock", takesValue: true, initial: "/run/firecracker.socket"},
	{name: "boot-timer"},
	{name: "config-file", takesValue: true},
	{name: "describe-snapshot", takesValue: true},
	{name: "http-api-max-payload-size", takesValue: true, initial: "51200"},
	{name: "id", takesValue: true, initial: "anonymous-instance"},
	{name: "level", takesValue: true},
	{name: "log-path", takesValue: true},
	{name: "metadata", takesValue: true},
	{name: "metrics-path", takesValue: true},
	{name: "mmds-size-limit", takesValue: true},
	{name: "module", takesValue: true},
	{name: "no-api", requires: "config-file"},
	{name: "no-seccomp", forbids: "seccomp-filter"},
	{name: "parent-cpu-time-us", takesValue: true},
	{name: "seccomp-filter", takesValue: true, forbids: "no-seccomp"},
	{name: "show-level"},
	{name: "show-log-origin"},
	{name: "snapshot-version"},
	{name: "start-time-cpu-us", takesValue: true},
	{name: "start-time-us", takesValue: true},
	{name: "version"},
}

// arguments are the options that were given, by name; an option without a
// value has "".
type arguments map[string]string

func (a arguments) given(name string) bool {
	_, ok := a[name]
	return ok
}

// value is what was given, or the option's initial value.
func (a arguments) value(name string) string {
	if v, ok := a[name]; ok {
		return v
	}
	f, _ := findFlag(name)
	return f.initial
}

// size reads a byte count; without one given or initial it is otherwise.
func (a arguments) size(name string, otherwise int) (int, error) {
	text := a.value(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 62)
	if err != nil {
		return 0, fmt.Errorf("'%s' parameter expected to be of 'usize' type.", name) //nolint:staticcheck // upstream's text
	}
	return int(n), nil
}

func findFlag(name string) (flag, bool) {
	i := slices.IndexFunc(flags, func(f flag) bool { return f.name == name })
	if i < 0 {
		return flag{}, false
	}
	return flags[i], true
}

// parseArguments reads a command line by Firecracker's rules. --help and
// --version win over all that is wrong beside them.
func parseArguments(args []string) (arguments, error) {
	if i := slices.Index(args, "--"); i >= 0 {
		args = args[:i]
	}
	for _, alone := range []string{"help", "version"} {
		if slices.Contains(args, "--"+alone) || alone == "help" && slices.Contains(args, "-h") {
			return arguments{alone: ""}, nil
		}
	}
	given := arguments{}
	for len(args) > 0 {
		rest, err := given.take(args)
		if err != nil {
			return nil, err
		}
		args = rest
	}
	return given, given.checkCompany()
}

// take reads one option and returns what follows it.
func (a arguments) take(args []string) ([]string, error) {
	name, isOption := strings.CutPrefix(args[0], "--")
	f, known := findFlag(name)
	if !isOption || !known {
		return nil, fmt.Errorf("Found argument '%s' which wasn't expected, or isn't valid in this context.", name) //nolint:staticcheck // upstream's text
	}
	if a.given(name) {
		return nil, fmt.Errorf("The argument '%s' was provided more than once.", name) //nolint:staticcheck // upstream's text
	}
	if !f.takesValue {
		a[name] = ""
		return args[1:], nil
	}
	if len(args) < 2 || strings.HasPrefix(args[1], "--") {
		return nil, fmt.Errorf("The argument '%s' requires a value, but none was supplied.", name) //nolint:staticcheck // upstream's text
	}
	a[name] = args[1]
	return args[2:], nil
}

// checkCompany holds options that need or exclude others.
func (a arguments) checkCompany() error {
	for _, f := range flags {
		if !a.given(f.name) {
			continue
		}
		if f.requires != "" && !a.given(f.requires) {
			return fmt.Errorf("Argument '%s' required, but not found.", f.requires) //nolint:staticcheck // upstream's text
		}
		if f.forbids != "" && a.given(f.forbids) {
			return fmt.Errorf("Argument '%s' cannot be used together with argument '%s'.", f.forbids, f.name) //nolint:staticcheck // upstream's text
		}
	}
	return nil
}

// usage lists the options, one a line.
func usage() string {
	var b strings.Builder
	b.WriteString("optional arguments:\n")
	for _, f := range flags {
		fmt.Fprintf(&b, "  --%s", f.name)
		if f.takesValue {
			fmt.Fprintf(&b, " <%s>", f.name)
		}
		if f.initial != "" {
			fmt.Fprintf(&b, " [default: %q]", f.initial)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// checkID holds the rule for a VM's id: 1 to 64 letters, digits, hyphens.
func checkID(id string) error {
	if len(id) < 1 || len(id) > 64 {
		return fmt.Errorf("Invalid instance ID: InvalidLen(%d, 1, 64)", len(id)) //nolint:staticcheck // upstream's text
	}
	for i, c := range id {
		if c != '-' && !isAlphanumeric(c) {
			return fmt.Errorf("Invalid instance ID: InvalidChar(%q, %d)", c, i) //nolint:staticcheck // upstream's text
		}
	}
	return nil
}
