package config

import (
	"fmt"
	"strings"
)

// ParseKeys understands keys on a keyboard as "ctrl-p,ctrl-q" or "ctrl-a,d":
// letters and digits as they are, and those that are pressed with ctrl. "none"
// is no keys.
func ParseKeys(s string) ([]byte, error) {
	if s == "none" {
		return nil, nil
	}
	var keys []byte
	for name := range strings.SplitSeq(s, ",") {
		key, err := parseKey(strings.ToLower(strings.TrimSpace(name)))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// controls are the keys that ctrl changes, the first to 0, as in caret notation.
const controls = "@abcdefghijklmnopqrstuvwxyz[\\]^_"

func parseKey(name string) (byte, error) {
	letter, control := strings.CutPrefix(name, "ctrl-")
	if len(letter) != 1 || letter[0] <= ' ' || letter[0] > '~' {
		return 0, fmt.Errorf("%q is no key: write ctrl-p, or a letter", name)
	}
	if !control {
		return letter[0], nil
	}
	at := strings.IndexByte(controls, letter[0])
	if at < 0 {
		return 0, fmt.Errorf("%q is no key: ctrl goes with letters and @ [ \\ ] ^ _", name)
	}
	return byte(at), nil
}

func setKeys(dst *string, s string) error {
	if _, err := ParseKeys(s); err != nil {
		return fmt.Errorf("must be keys such as ctrl-p,ctrl-q: %w", err)
	}
	*dst = s
	return nil
}
