// Package depmod writes what modprobe looks up about a tree of kernel modules:
// the files that the depmod program of kmod writes, byte for byte where their
// order matters. So a kernel can be prepared for guests without running any
// program of theirs.
//
// The binary files are tries, read by libkmod with mmap
// (libkmod/libkmod-index.c in kmod); their format has not changed since 2011.
package depmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Module is what one module says of itself.
type Module struct {
	Path string // below the tree's top, "kernel/fs/overlayfs/overlay.ko"

	aliases  []string
	softdeps []string
	exports  []string // the symbols that it gives to others
	needs    []string // the symbols that it wants from elsewhere
}

// Name is the module's name: its file's, with underscores for dashes.
func (m *Module) Name() string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(m.Path), ".ko"), "-", "_")
}

// Read reads an uncompressed module.
func Read(name string, data []byte) (*Module, error) {
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("cannot read module %s: %w", name, err)
	}
	m := &Module{Path: name}
	if err := m.readInfo(file); err != nil {
		return nil, fmt.Errorf("cannot read module %s: %w", name, err)
	}
	if err := m.readSymbols(file); err != nil {
		return nil, fmt.Errorf("cannot read module %s: %w", name, err)
	}
	return m, nil
}

func (m *Module) readInfo(file *elf.File) error {
	info, err := sectionStrings(file, ".modinfo")
	if err != nil {
		return err
	}
	for _, entry := range info {
		switch key, value, _ := strings.Cut(entry, "="); key {
		case "alias":
			m.aliases = append(m.aliases, value)
		case "softdep":
			m.softdeps = append(m.softdeps, value)
		}
	}
	return nil
}

// readSymbols finds what the module exports and what it wants. The section of
// exported names holds those of name spaces too: only what the module defines
// is a symbol.
func (m *Module) readSymbols(file *elf.File) error {
	names, err := sectionStrings(file, "__ksymtab_strings")
	if err != nil {
		return err
	}
	symbols, err := file.Symbols()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return err
	}
	defined := map[string]bool{}
	for _, s := range symbols {
		switch {
		case s.Name == "":
		case s.Section == elf.SHN_UNDEF:
			m.needs = append(m.needs, s.Name)
		case elf.ST_BIND(s.Info) != elf.STB_LOCAL:
			defined[s.Name] = true
		}
	}
	for _, name := range names {
		if defined[name] {
			m.exports = append(m.exports, name)
			delete(defined, name)
		}
	}
	return nil
}

// sectionStrings reads a section that is a list of NUL-ended strings; none when
// there is no such section.
func sectionStrings(file *elf.File, name string) ([]string, error) {
	section := file.Section(name)
	if section == nil {
		return nil, nil
	}
	data, err := section.Data()
	if err != nil {
		return nil, err
	}
	var list []string
	for entry := range strings.SplitSeq(string(data), "\x00") {
		if entry != "" {
			list = append(list, entry)
		}
	}
	return list, nil
}

// Tree is all modules of a kernel, with what each depends on.
type Tree struct {
	modules []*Module             // in the kernel's own order
	deps    map[*Module][]*Module // direct
}

// NewTree puts modules into the order that modules.order of the kernel gives
// (the text may be empty), and finds out who needs whom.
func NewTree(modules []*Module, order string) *Tree {
	t := &Tree{modules: sortModules(modules, order), deps: map[*Module][]*Module{}}
	exporter := map[string]*Module{}
	for _, m := range t.modules {
		for _, symbol := range m.exports {
			exporter[symbol] = m
		}
	}
	for _, m := range t.modules {
		for _, symbol := range m.needs {
			from := exporter[symbol]
			if from != nil && from != m && !slices.Contains(t.deps[m], from) {
				t.deps[m] = append(t.deps[m], from)
			}
		}
	}
	return t
}

// sortModules sorts by the place in modules.order, then by path: of two modules
// for one alias the first is tried first.
func sortModules(modules []*Module, order string) []*Module {
	place := map[string]int{}
	for i, line := range strings.Fields(order) {
		place[uncompressed(line)] = i
	}
	at := func(m *Module) int {
		if i, ok := place[m.Path]; ok {
			return i
		}
		return len(place)
	}
	sorted := slices.Clone(modules)
	slices.SortFunc(sorted, func(a, b *Module) int {
		if d := at(a) - at(b); d != 0 {
			return d
		}
		return strings.Compare(a.Path, b.Path)
	})
	return sorted
}

// uncompressed is a module's path without the suffix of its compression.
func uncompressed(name string) string {
	if i := strings.LastIndex(name, ".ko"); i >= 0 {
		return name[:i+len(".ko")]
	}
	return name
}

// Find gives the module of this name, nil when there is none.
func (t *Tree) Find(name string) *Module {
	want := strings.ReplaceAll(name, "-", "_")
	for _, m := range t.modules {
		if m.Name() == want {
			return m
		}
	}
	return nil
}

// Deps gives everything that m needs, in the order in which to load it.
func (t *Tree) Deps(m *Module) []*Module {
	var order []*Module
	seen := map[*Module]bool{m: true} // so that a circle ends
	var visit func(*Module)
	visit = func(n *Module) {
		for _, dep := range t.deps[n] {
			if !seen[dep] {
				seen[dep] = true
				visit(dep)
				order = append(order, dep)
			}
		}
	}
	visit(m)
	return order
}

// depLine is the module's line in modules.dep: the path, a colon, and all it
// needs, each before those that it needs itself.
func (t *Tree) depLine(m *Module) string {
	line := m.Path + ":"
	for _, dep := range slices.Backward(t.Deps(m)) {
		line += " " + dep.Path
	}
	return line
}
