package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/banger-vm/banger/api"
)

// Error is what is wrong with the settings. Message already names file and
// line where there are any; Hint says how to mend it.
type Error struct {
	Message string
	Hint    string
	File    string // the config file, "" when the trouble is elsewhere
	Line    int    // 1-based; 0: not in a file
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the error as it goes over the wire.
func (e *Error) Unwrap() error {
	return &api.Error{Kind: api.KindBadRequest, Message: e.Message, Hint: e.Hint}
}

func unknownKey(name string, at text) error {
	e := &Error{
		Message: fmt.Sprintf("%s: %q is not a setting", at.origin, name),
		File:    at.file, Line: at.line,
	}
	if near := nearest(name, keyNames()); near != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	} else {
		e.Hint = "the settings are: " + strings.Join(keyNames(), ", ")
	}
	return e
}

func badValue(name string, at text, why error) error {
	return &Error{
		Message: fmt.Sprintf("%s: %s = %q: %v", at.origin, name, at.value, why),
		Hint:    fmt.Sprintf("`banger config show` lists the settings; %s is %s", name, find(name).about),
		File:    at.file, Line: at.line,
	}
}

func syntaxError(path string, err error) error {
	var at *toml.DecodeError
	if !errors.As(err, &at) {
		return &Error{Message: fmt.Sprintf("%s: %v", path, err), File: path, Hint: "the file must be TOML: key = \"value\", one a line"}
	}
	line, column := at.Position()
	return &Error{
		Message: fmt.Sprintf("%s:%d:%d: %s", path, line, column, strings.TrimPrefix(at.Error(), "toml: ")),
		Hint:    "the file must be TOML: key = \"value\", one a line",
		File:    path, Line: line,
	}
}

func keyNames() []string {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = k.name
	}
	return names
}

// nearest gives the word that a slip of the keyboard makes name of, or "".
func nearest(name string, words []string) string {
	best, bestAt := "", len(name)/3+2
	for _, w := range words {
		if d := distance(strings.ToLower(name), w); d < bestAt {
			best, bestAt = w, d
		}
	}
	return best
}

// distance is Levenshtein's: how many letters must be changed, added or left
// out.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			diagonal = row[j]
			row[j] = min(cost, row[j]+1, row[j-1]+1)
		}
	}
	return row[len(b)]
}
