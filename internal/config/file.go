package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// maxFile is more than any config file needs; a larger one is something else.
const maxFile = 1 << 20

// readFile lays the config file's values into texts. A missing file is an
// error only when it was asked for by name.
func readFile(path string, named bool, texts map[string]text) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !named:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &Error{Message: "there is no config file " + path, File: path,
			Hint: "BANGER_CONFIG names it: unset it, or make the file"}
	}
	if err != nil {
		return &Error{Message: fmt.Sprintf("cannot read the config file: %v", err), File: path,
			Hint: "make it readable, or move it away to run with defaults"}
	}
	if path == os.DevNull {
		return nil // the way to ask for no file at all
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return &Error{Message: path + " is not a config file", File: path,
			Hint: "it must be a regular file of TOML text"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return &Error{Message: fmt.Sprintf("cannot read the config file: %v", err), File: path,
			Hint: "make it readable, or move it away to run with defaults"}
	}
	return parseFile(path, data, texts)
}

func parseFile(path string, data []byte, texts map[string]text) error {
	var values map[string]any
	if err := toml.Unmarshal(data, &values); err != nil {
		return syntaxError(path, err)
	}
	return eachKey(data, func(name string, line int) error {
		at := text{origin: fmt.Sprintf("%s:%d", path, line), file: path, line: line}
		if table, field, isField := strings.Cut(name, "."); isField && find(table) != nil && find(table).kind == kindPairs {
			if !slices.Contains(pairFields, field) {
				return unknownKey(name, at)
			}
			return nil // it came with its table
		}
		k := find(name)
		if k == nil {
			return unknownKey(name, at)
		}
		value, err := k.textOf(values[name])
		if err != nil {
			at.value = fmt.Sprint(values[name])
			return badValue(name, at, err)
		}
		at.value = value
		texts[name] = at
		return nil
	})
}

// eachKey calls f with every top-level key, a table's name included, in the
// order and with the line of the file. What is within a table of a known name
// has that name and a dot before its own.
func eachKey(data []byte, f func(name string, line int) error) error {
	var p unstable.Parser
	p.Reset(data)
	within := ""
	for p.NextExpression() {
		node := p.Expression()
		if node.Kind != unstable.KeyValue && node.Kind != unstable.Table && node.Kind != unstable.ArrayTable {
			continue
		}
		var parts []string
		line := 0
		for it := node.Key(); it.Next(); {
			parts = append(parts, string(it.Node().Data))
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
		}
		name := strings.Join(parts, ".")
		if node.Kind == unstable.KeyValue {
			name = within + name
		} else {
			within = name + "."
		}
		if err := f(name, line); err != nil {
			return err
		}
	}
	return p.Error()
}

func find(name string) *key {
	for i := range keys {
		if keys[i].name == name {
			return &keys[i]
		}
	}
	return nil
}

// textOf gives a value of the file as the text that the environment would
// have for it.
func (k key) textOf(v any) (string, error) {
	if k.kind == kindPairs {
		return pairsText(v)
	}
	if k.kind == kindList {
		return listText(v)
	}
	switch v := v.(type) {
	case string:
		if k.kind == kindInt {
			return "", errors.New("must be a number, without quotes")
		}
		return v, nil
	case int64:
		if k.kind == kindString {
			return "", errors.New("must be a text in quotes")
		}
		return strconv.FormatInt(v, 10), nil
	}
	if k.kind == kindInt {
		return "", errors.New("must be a number")
	}
	return "", errors.New("must be a text in quotes")
}

// listText joins a list of the file as the environment has it.
func listText(v any) (string, error) {
	items, ok := v.([]any)
	if !ok {
		return "", errors.New(`must be a list, such as ["one", "two"]`)
	}
	texts := make([]string, len(items))
	for i, item := range items {
		text, ok := item.(string)
		if !ok || strings.Contains(text, ",") {
			return "", errors.New("must be a list of texts in quotes, without commas in them")
		}
		texts[i] = text
	}
	return strings.Join(texts, ","), nil
}
