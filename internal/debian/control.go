package debian

import (
	"fmt"
	"strings"
)

// maxStanzaFields bounds a stanza; the largest of Debian's own has some 30.
const maxStanzaFields = 256

// field is one "Name: value" of a control file. Value holds the continuation
// lines too, with their newlines, as written.
type field struct{ name, value string }

// stanza is one paragraph of a control file.
type stanza []field

// get gives the value of the field, whose name is compared as deb822(5) says:
// without regard to case.
func (s stanza) get(name string) string {
	for _, f := range s {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// parseControl calls visit for each stanza of a control file (deb822(5)). The
// stanza is valid until visit returns; its strings are parts of text. It is a
// parser of its own since Debian's list is 50 MB, and one by reflection takes
// many times as long.
func parseControl(text string, visit func(stanza) error) error {
	var current stanza
	start := 0 // where the value of the last field begins
	flush := func() error {
		if len(current) == 0 {
			return nil
		}
		err := visit(current)
		current = current[:0]
		return err
	}
	for line, pos := 1, 0; pos < len(text); line++ {
		raw, end, next := lineAt(text, pos)
		switch {
		case strings.TrimSpace(raw) == "":
			if err := flush(); err != nil {
				return err
			}
		case raw[0] == '#':
		case raw[0] == ' ' || raw[0] == '\t':
			if len(current) == 0 {
				return fmt.Errorf("line %d continues nothing", line)
			}
			current[len(current)-1].value = text[start:end]
		default:
			f, err := parseField(raw)
			if err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			}
			if len(current) == maxStanzaFields {
				return fmt.Errorf("line %d: more than %d fields", line, maxStanzaFields)
			}
			start = pos + len(f.name) + len(":")
			current = append(current, f)
		}
		pos = next
	}
	return flush()
}

// lineAt gives the line at pos, where it ends, and where the next one begins.
func lineAt(text string, pos int) (line string, end, next int) {
	end, next = len(text), len(text)
	if i := strings.IndexByte(text[pos:], '\n'); i >= 0 {
		end, next = pos+i, pos+i+1
	}
	return text[pos:end], end, next
}

func parseField(line string) (field, error) {
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || strings.ContainsAny(name, " \t") {
		return field{}, fmt.Errorf("not a field: %.60q", line)
	}
	return field{name, strings.TrimSpace(value)}, nil
}
