package proto

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Clean makes a text of the other end fit to be shown: what could drive a
// terminal or turn a line around is taken out, line ends become spaces, and it
// is at most max bytes long.
func Clean(text string, max int) string {
	if len(text) > max {
		text = text[:max]
	}
	return strings.Map(printable, strings.ToValidUTF8(text, ""))
}

func printable(r rune) rune {
	switch {
	case r == '\n' || r == '\t' || r == '\r':
		return ' '
	case r == utf8.RuneError, unicode.IsControl(r), unicode.Is(unicode.Cf, r), unicode.Is(unicode.Zl, r), unicode.Is(unicode.Zp, r):
		return -1
	}
	return r
}
