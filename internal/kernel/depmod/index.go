package depmod

import (
	"encoding/binary"
	"maps"
	"slices"
)

// The format of kmod's binary indexes: a header of three big-endian words
// (magic, version, root), and nodes, each written after its children. The word
// that points to a node has in its high bits what the node consists of.
const (
	indexMagic   = 0xB007F457
	indexVersion = 0x00020001

	nodePrefix   = 0x80000000
	nodeValues   = 0x40000000
	nodeChildren = 0x20000000
)

// index maps keys to values with priorities (the lowest is looked at first).
type index struct{ values map[string][]indexValue }

type indexValue struct {
	text     string
	priority int
}

func newIndex() *index { return &index{values: map[string][]indexValue{}} }

func (x *index) insert(key, text string, priority int) {
	x.values[key] = append(x.values[key], indexValue{text, priority})
}

// bytes writes the index as a trie in which each node has the longest prefix
// that its keys share.
func (x *index) bytes() []byte {
	w := &indexWriter{values: x.values, out: make([]byte, 12)}
	binary.BigEndian.PutUint32(w.out[0:], indexMagic)
	binary.BigEndian.PutUint32(w.out[4:], indexVersion)
	root := w.node(slices.Sorted(maps.Keys(x.values)), 0)
	binary.BigEndian.PutUint32(w.out[8:], root)
	return w.out
}

type indexWriter struct {
	values map[string][]indexValue
	out    []byte
}

// node writes the node of keys, sorted, which share their first depth bytes,
// and gives the word that points to it.
func (w *indexWriter) node(keys []string, depth int) uint32 {
	end := depth + sharedPrefix(keys, depth)
	own, rest := "", keys
	hasOwn := len(keys) > 0 && len(keys[0]) == end
	if hasOwn {
		own, rest = keys[0], keys[1:]
	}
	first, children := w.children(rest, end)

	at := uint32(len(w.out))
	if end > depth {
		at |= nodePrefix
		w.out = append(append(w.out, keys[0][depth:end]...), 0)
	}
	if len(children) > 0 {
		at |= nodeChildren
		w.out = append(w.out, first, first+byte(len(children)-1))
		for _, child := range children {
			w.out = binary.BigEndian.AppendUint32(w.out, child)
		}
	}
	if hasOwn {
		at |= nodeValues
		w.valueList(w.values[own])
	}
	return at
}

// children writes the nodes below, one for each next byte, and gives the words
// that point to them, from the first byte to the last with zeros in the gaps.
func (w *indexWriter) children(keys []string, depth int) (first byte, words []uint32) {
	for len(keys) > 0 {
		next := keys[0][depth]
		n := 0
		for n < len(keys) && keys[n][depth] == next {
			n++
		}
		if words == nil {
			first = next
		}
		for len(words) < int(next-first) {
			words = append(words, 0)
		}
		words = append(words, w.node(keys[:n], depth+1))
		keys = keys[n:]
	}
	return first, words
}

func (w *indexWriter) valueList(values []indexValue) {
	values = slices.Clone(values)
	slices.SortStableFunc(values, func(a, b indexValue) int { return a.priority - b.priority })
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(len(values)))
	for _, v := range values {
		w.out = binary.BigEndian.AppendUint32(w.out, uint32(v.priority))
		w.out = append(append(w.out, v.text...), 0)
	}
}

// sharedPrefix gives how many bytes from depth on all keys, sorted, share.
func sharedPrefix(keys []string, depth int) int {
	if len(keys) == 0 {
		return 0
	}
	a, b := keys[0][depth:], keys[len(keys)-1][depth:]
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
