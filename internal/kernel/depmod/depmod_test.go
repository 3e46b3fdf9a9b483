package depmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// search reads an index the way libkmod does (index_mm_search): it follows one
// branch byte by byte, without knowing how the index was written.
func search(b []byte, key string) (values []string, found bool) {
	word := func(at uint32) uint32 { return binary.BigEndian.Uint32(b[at:]) }
	text := func(at uint32) string { s, _, _ := bytes.Cut(b[at:], []byte{0}); return string(s) }
	node := word(8)
	for node != 0 {
		at := node & 0x0fffffff
		if node&nodePrefix != 0 {
			prefix := text(at)
			at += uint32(len(prefix)) + 1
			if !strings.HasPrefix(key, prefix) {
				return nil, false
			}
			key = key[len(prefix):]
		}
		var first, last byte
		children := at + 2
		if node&nodeChildren != 0 {
			first, last = b[at], b[at+1]
			at = children + 4*(uint32(last-first)+1)
		}
		if key == "" {
			if node&nodeValues == 0 {
				return nil, false
			}
			count := word(at)
			at += 4
			for range count {
				value := text(at + 4)
				values = append(values, value)
				at += 4 + uint32(len(value)) + 1
			}
			return values, true
		}
		if node&nodeChildren == 0 || key[0] < first || key[0] > last {
			return nil, false
		}
		node = word(children + 4*uint32(key[0]-first))
		key = key[1:]
	}
	return nil, false
}

func TestEveryKeyIsFoundInAnIndexAndNoOther(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keys := rapid.SliceOfDistinct(rapid.StringMatching(`[a-d_]{1,6}`), rapid.ID[string]).Draw(t, "keys")
		x := newIndex()
		for i, key := range keys {
			x.insert(key, "value of "+key, i)
		}
		data := x.bytes()
		for _, key := range keys {
			if got, ok := search(data, key); !ok || len(got) != 1 || got[0] != "value of "+key {
				t.Fatalf("%q gives %v, %v", key, got, ok)
			}
		}
		probe := rapid.StringMatching(`[a-d_]{0,7}`).Draw(t, "probe")
		if _, ok := search(data, probe); ok != slices.Contains(keys, probe) {
			t.Fatalf("%q: found is %v", probe, ok)
		}
	})
}

func module(path string, edit func(*Module)) *Module {
	m := &Module{Path: path}
	edit(m)
	return m
}

func testTree() *Tree {
	return NewTree([]*Module{
		module("kernel/net/virtio_net.ko", func(m *Module) {
			m.needs = []string{"net_failover_create", "printk"}
			m.aliases = []string{"virtio:d00000001v*"}
		}),
		module("kernel/net/net_failover.ko", func(m *Module) {
			m.exports = []string{"net_failover_create"}
			m.needs = []string{"failover_register"}
		}),
		module("kernel/net/failover.ko", func(m *Module) { m.exports = []string{"failover_register"} }),
		module("kernel/drivers/net/tun.ko", func(m *Module) {
			m.aliases = []string{"devname:net/tun", "char-major-10-200"}
			m.softdeps = []string{"pre: failover"}
		}),
		module("kernel/crypto/aegis128-aesni.ko", func(m *Module) { m.aliases = []string{"crypto-aegis[0-9]-x"} }),
	}, "kernel/net/failover.ko.xz\nkernel/net/virtio_net.ko.xz\n")
}

func TestFilesSayWhoNeedsWhom(t *testing.T) {
	files := testTree().Files(Builtin{
		List: "kernel/fs/ext4/ext4.ko\n",
		Info: "ext4.alias=fs-ext4\x00ext4.license=GPL\x00",
	})
	want := map[string]string{
		"modules.dep": `kernel/net/failover.ko:
kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko
kernel/crypto/aegis128-aesni.ko:
kernel/drivers/net/tun.ko:
kernel/net/net_failover.ko: kernel/net/failover.ko
`,
		"modules.alias": `# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias crypto-aegis[0-9]-x aegis128_aesni
alias devname:net/tun tun
alias char-major-10-200 tun
`,
		"modules.devname": "# Device nodes to trigger on-demand module loading.\ntun net/tun c10:200\n",
		"modules.softdep": "# Soft dependencies extracted from modules themselves.\nsoftdep tun pre: failover\n",
		"modules.symbols": `# Aliases for symbols, used by symbol_request().
alias symbol:failover_register failover
alias symbol:net_failover_create net_failover
`,
	}
	for name, text := range want {
		if diff := cmp.Diff(text, string(files[name])); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	for file, lookups := range map[string]map[string]string{
		"modules.dep.bin":           {"virtio_net": "kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/net/failover.ko"},
		"modules.alias.bin":         {"char_major_10_200": "tun", "crypto_aegis[0-9]_x": "aegis128_aesni"},
		"modules.symbols.bin":       {"symbol:failover_register": "failover"},
		"modules.builtin.bin":       {"ext4": ""},
		"modules.builtin.alias.bin": {"fs_ext4": "ext4"},
	} {
		for key, value := range lookups {
			if got, ok := search(files[file], key); !ok || !slices.Equal(got, []string{value}) {
				t.Errorf("%s: %s gives %q, %v", file, key, got, ok)
			}
		}
	}
}

func TestValuesOfOneAliasStandInTheKernelsOrder(t *testing.T) {
	tree := NewTree([]*Module{
		module("a.ko", func(m *Module) { m.aliases = []string{"same"} }),
		module("b.ko", func(m *Module) { m.aliases = []string{"same"} }),
	}, "b.ko\na.ko\n")
	got, _ := search(tree.Files(Builtin{})["modules.alias.bin"], "same")
	if !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("order is %v", got)
	}
}

func TestDepsLoadInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 12).Draw(t, "modules")
		var modules []*Module
		for i := range count {
			m := &Module{Path: fmt.Sprintf("m%d.ko", i), exports: []string{fmt.Sprint("s", i)}}
			for range rapid.IntRange(0, 3).Draw(t, "needs") {
				m.needs = append(m.needs, fmt.Sprint("s", rapid.IntRange(0, i).Draw(t, "need")))
			}
			modules = append(modules, m)
		}
		tree := NewTree(modules, "")
		for _, m := range modules {
			loaded := map[*Module]bool{}
			for _, dep := range append(tree.Deps(m), m) {
				for _, before := range tree.deps[dep] {
					if !loaded[before] {
						t.Fatalf("%s would be loaded before %s", dep.Path, before.Path)
					}
				}
				loaded[dep] = true
			}
		}
	})
}

func TestACircleOfModulesEnds(t *testing.T) {
	tree := NewTree([]*Module{
		{Path: "a.ko", exports: []string{"a"}, needs: []string{"b"}},
		{Path: "b.ko", exports: []string{"b"}, needs: []string{"a"}},
	}, "")
	if got := tree.Deps(tree.Find("a")); len(got) != 1 {
		t.Errorf("deps are %v", got)
	}
}

func TestReadRefusesWhatIsNoModule(t *testing.T) {
	if _, err := Read("x.ko", []byte("text")); err == nil {
		t.Error("text was accepted")
	}
}

func TestAnIndexIsByteForByteWhatDepmodWrites(t *testing.T) {
	// By depmod of kmod 30, for the same three lines of modules.builtin.
	const want = "b007f457000200012000003d726331360000000001000000000000000001000000000000000001000000000078740032344000001a00000000400000236365c000000c00000000a000002c"
	got := builtinIndex("kernel/fs/ext4/ext4.ko\nkernel/fs/ext2/ext2.ko\nkernel/lib/crc16.ko\n").bytes()
	if diff := cmp.Diff(want, fmt.Sprintf("%x", got)); diff != "" {
		t.Error(diff)
	}
}
