// Package ui is how banger looks: tables, JSON, sizes and ages for people, and
// the printers of progress. Whatever came from elsewhere is cleaned before it
// is shown.
package ui

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// JSON writes v, indented, and a line end.
func JSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// JSONLine writes v on one line.
func JSONLine(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// Clean takes out of a text what could drive a terminal or turn a line around:
// control and formatting characters. Tabs become a space, line ends stay only
// in CleanLines.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
			return -1
		}
		return r
	}, s)
}

// CleanLines is Clean for each line of a text.
func CleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		lines[i] = Clean(line)
	}
	return strings.Join(lines, "\n")
}

// Brief is the first line of a text, and no more of it than limit characters.
func Brief(s string, limit int) string {
	line, _, more := strings.Cut(strings.TrimSpace(s), "\n")
	runes := []rune(line)
	if len(runes) > limit {
		runes, more = runes[:limit-1], true
	}
	if more {
		return strings.TrimRight(string(runes), " :") + "…"
	}
	return line
}

// Bytes writes a size for people, in powers of 1024 with three digits at most.
func Bytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB"}
	f, unit := float64(n), 0
	for f >= 1000 && unit < len(units)-1 {
		f /= 1024
		unit++
	}
	if unit == 0 || f >= 9.95 {
		return fmt.Sprintf("%.0f %s", f, units[unit])
	}
	return fmt.Sprintf("%.1f %s", f, units[unit])
}

// Age writes how long ago a moment was, in its largest unit that says enough:
// "45s", "12m", "5h", "9d". A zero time is "-".
func Age(now, then time.Time) string {
	d := max(0, now.Sub(then))
	switch {
	case then.IsZero():
		return "-"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Or gives a dash for an empty text, so that no column is empty.
func Or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
