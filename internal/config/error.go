package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/spelling"
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
	if near := spelling.Nearest(name, keyNames()); near != "" {
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
