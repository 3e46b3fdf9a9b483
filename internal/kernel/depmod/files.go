package depmod

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Builtin is what the kernel package says about what is built into the kernel.
type Builtin struct {
	List string // the text of modules.builtin
	Info string // modules.builtin.modinfo: NUL-ended entries "ext4.alias=fs-ext4"
}

// Files gives the name and the content of each file that modprobe reads.
func (t *Tree) Files(builtin Builtin) map[string][]byte {
	deps, depTexts := newIndex(), strings.Builder{}
	aliases, aliasText := newIndex(), header("Aliases extracted from modules themselves.")
	softText := header("Soft dependencies extracted from modules themselves.")
	symbols, symbolText := newIndex(), header("Aliases for symbols, used by symbol_request().")
	devText := header("Device nodes to trigger on-demand module loading.")
	for i, m := range t.modules {
		line := t.depLine(m)
		deps.insert(m.Name(), line, i)
		depTexts.WriteString(line + "\n")
		for _, alias := range m.aliases {
			aliases.insert(normalize(alias), m.Name(), i)
			fmt.Fprintf(aliasText, "alias %s %s\n", alias, m.Name())
		}
		for _, soft := range m.softdeps {
			fmt.Fprintf(softText, "softdep %s %s\n", m.Name(), soft)
		}
		for _, symbol := range m.exports {
			symbols.insert("symbol:"+symbol, m.Name(), i)
			fmt.Fprintf(symbolText, "alias symbol:%s %s\n", symbol, m.Name())
		}
		devText.WriteString(devname(m))
	}
	return map[string][]byte{
		"modules.dep":               []byte(depTexts.String()),
		"modules.dep.bin":           deps.bytes(),
		"modules.alias":             []byte(aliasText.String()),
		"modules.alias.bin":         aliases.bytes(),
		"modules.softdep":           []byte(softText.String()),
		"modules.symbols":           []byte(symbolText.String()),
		"modules.symbols.bin":       symbols.bytes(),
		"modules.devname":           []byte(devText.String()),
		"modules.builtin.bin":       builtinIndex(builtin.List).bytes(),
		"modules.builtin.alias.bin": builtinAliases(builtin.Info).bytes(),
	}
}

func header(text string) *strings.Builder {
	var b strings.Builder
	b.WriteString("# " + text + "\n")
	return &b
}

// normalize writes underscores for dashes, as modprobe does with what it is
// asked for; not inside of brackets, where a dash is a range.
func normalize(alias string) string {
	var out strings.Builder
	inside := false
	for _, c := range []byte(alias) {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			c = '_'
		}
		out.WriteByte(c)
	}
	return out.String()
}

var majorAlias = regexp.MustCompile(`^(char|block)-major-(\d+)-(\d+)$`)

// devname is the module's line in modules.devname, or nothing: a module that
// names both a device node and its number is loaded when the node is opened.
func devname(m *Module) string {
	var node, number string
	for _, alias := range m.aliases {
		if name, ok := strings.CutPrefix(alias, "devname:"); ok {
			node = name
		}
		if match := majorAlias.FindStringSubmatch(alias); match != nil {
			number = match[1][:1] + match[2] + ":" + match[3]
		}
	}
	if node == "" || number == "" {
		return ""
	}
	return fmt.Sprintf("%s %s %s\n", m.Name(), node, number)
}

func builtinIndex(list string) *index {
	x := newIndex()
	for _, name := range strings.Fields(list) {
		x.insert((&Module{Path: path.Clean(uncompressed(name))}).Name(), "", 0)
	}
	return x
}

// builtinAliases indexes the aliases of built-in modules. An entry is
// "module.key=value".
func builtinAliases(info string) *index {
	x := newIndex()
	for entry := range strings.SplitSeq(info, "\x00") {
		name, rest, ok := strings.Cut(entry, ".")
		if !ok {
			continue
		}
		if alias, ok := strings.CutPrefix(rest, "alias="); ok {
			x.insert(normalize(alias), name, 0)
		}
	}
	return x
}
