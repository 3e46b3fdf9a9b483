package config

import (
	"fmt"
	"strings"
)

// ParseArgs reads a program's arguments that are only "--set", "key=value",
// as bangerd takes them, into flags for [Options].
func ParseArgs(args []string) (map[string]string, error) {
	var settings []string
	for len(args) > 0 {
		switch setting, inOne := strings.CutPrefix(args[0], "--set="); {
		case inOne:
			settings, args = append(settings, setting), args[1:]
		case args[0] == "--set" && len(args) > 1:
			settings, args = append(settings, args[1]), args[2:]
		default:
			return nil, &Error{Message: fmt.Sprintf("%q is not understood", args[0]), Hint: "the only arguments are --set setting=value"}
		}
	}
	return ParseSettings(settings)
}

// ParseSettings reads texts like "key=value". Whether there is such a key,
// Load says.
func ParseSettings(settings []string) (map[string]string, error) {
	flags := map[string]string{}
	for _, s := range settings {
		name, value, found := strings.Cut(s, "=")
		if !found {
			return nil, &Error{Message: fmt.Sprintf("%q sets nothing", s), Hint: "write --set setting=value"}
		}
		flags[name] = value
	}
	return flags, nil
}
