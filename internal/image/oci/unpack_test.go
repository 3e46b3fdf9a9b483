package oci

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// TestLayers holds what comes out of layers against what they mean.
func TestLayers(t *testing.T) {
	type layers [][]tar.Header
	tests := map[string]struct {
		layers layers
		want   string
	}{
		"a tree":             {layers{{dir("a"), file("a/b"), dir("c")}}, "a a/b c"},
		"parents are made":   {layers{{file("a/b/c")}}, "a a/b a/b/c"},
		"absolute and dots":  {layers{{file("/a/b"), file("./a/./c"), file("a//d"), file("a/x/../e")}}, "a a/b a/c a/d a/e"},
		"the root":           {layers{{dir("."), dir("./"), file("a")}}, "a"},
		"added to":           {layers{{dir("a"), file("a/b")}, {file("a/c")}}, "a a/b a/c"},
		"whiteout":           {layers{{file("a/b"), file("a/c")}, {file("a/.wh.b")}}, "a a/c"},
		"of a directory":     {layers{{file("a/b/c"), file("a/d")}, {file("a/.wh.b")}}, "a a/d"},
		"of nothing":         {layers{{file("a/b")}, {file("a/.wh.c"), file("x/.wh.y")}}, "a a/b"},
		"and made anew":      {layers{{file("a/b/old")}, {file("a/.wh.b"), file("a/b/new")}}, "a a/b a/b/new"},
		"made anew before":   {layers{{file("a/b/old")}, {file("a/b/new"), file("a/.wh.b")}}, "a a/b a/b/new"},
		"file before":        {layers{{file("a")}, {file("a"), file(".wh.a")}}, "a"},
		"opaque":             {layers{{file("a/b"), file("a/c/d")}, {dir("a"), file("a/.wh..wh..opq"), file("a/e")}}, "a a/e"},
		"opaque at the end":  {layers{{file("a/b"), file("a/c/d")}, {file("a/c/new"), file("a/e"), file("a/.wh..wh..opq")}}, "a a/c a/c/new a/e"},
		"opaque root":        {layers{{file("a"), file("b/c")}, {file("d"), file(".wh..wh..opq")}}, "d"},
		"opaque nothing":     {layers{{file("a")}, {file("b/.wh..wh..opq")}}, "a"},
		"whiteout by a link": {layers{{file("usr/lib/a"), link("lib", "usr/lib")}, {file("lib/.wh.a")}}, "lib usr usr/lib"},
		"of a link":          {layers{{file("usr/lib/a"), link("lib", "usr/lib")}, {file(".wh.lib")}}, "usr usr/lib usr/lib/a"},
		"of aufs":            {layers{{file("a"), file(".wh..wh.aufs"), file(".wh..wh.plnk")}}, "a"},
		"of the same layer":  {layers{{file("a"), file(".wh.a")}}, "a"},
		"two layers below":   {layers{{file("a")}, {file("b")}, {file(".wh.a"), file(".wh.b")}}, ""},
		"file for directory": {layers{{file("a/b")}, {file("a")}}, "a"},
		"and back":           {layers{{file("a/b")}, {file("a")}, {dir("a"), file("a/c")}}, "a a/c"},
		"in one layer":       {layers{{file("a/b"), file("a"), dir("a"), file("a/c")}}, "a a/c"},
		"directory for link": {layers{{dir("b"), link("a", "b")}, {dir("a"), file("a/c")}}, "a a/c b"},
		"usrmerge":           {layers{{dir("usr/lib"), link("lib", "usr/lib")}, {file("lib/x/y")}}, "lib usr usr/lib usr/lib/x usr/lib/x/y"},
		"absolute link":      {layers{{dir("usr/lib"), link("lib", "/usr/lib")}, {file("lib/x")}}, "lib usr usr/lib usr/lib/x"},
		"dangling link":      {layers{{link("a", "b/c")}, {file("a/x")}}, "a b b/c b/c/x"},
		"links over links":   {layers{{link("a", "b"), link("b", "c/d/.."), dir("c/d")}, {file("a/x")}}, "a b c c/d c/x"},
		"up and down":        {layers{{dir("a/b"), dir("c"), link("a/b/l", "../../c")}, {file("a/b/l/x")}}, "a a/b a/b/l c c/x"},
		"links to anywhere":  {layers{{link("a", "../../../etc/passwd"), link("b", "/nowhere"), link("c", "c")}}, "a b c"},
		"a link replaced":    {layers{{link("a", "../../../etc/passwd")}, {file("a")}}, "a"},
		"hard links":         {layers{{file("a"), hard("b", "a"), hard("c/d", "/b"), hard("e", "./a")}}, "a b c c/d e"},
		"to a lower layer":   {layers{{file("a")}, {hard("b", "a")}}, "a b"},
		"to a symlink":       {layers{{link("a", "nowhere"), hard("b", "a")}, {file("b/x")}}, "a b nowhere nowhere/x"},
		"by a symlink":       {layers{{file("usr/lib/a"), link("lib", "usr/lib"), hard("b", "lib/a")}}, "b lib usr usr/lib usr/lib/a"},
		"global header":      {layers{{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, file("a")}}, "a"},
		"nodes": {layers{{{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, {Typeflag: tar.TypeFifo, Name: "pipe", Mode: 0o600},
			{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o660, Devmajor: 8}}}, "disk null pipe"},
		"longest name": {layers{{file(strings.Repeat("x", 255))}}, strings.Repeat("x", 255)},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var packed [][]byte
			for i, entries := range test.layers {
				packed = append(packed, layer(t, i, entries...))
			}
			got, err := unpacked(t, 1<<20, packed...)
			if err != nil {
				t.Fatal(err)
			}
			if got.paths() != test.want {
				t.Errorf("got  %s\nwant %s", got.paths(), test.want)
			}
		})
	}
}

// TestLastWins looks at the content of what comes twice.
func TestLastWins(t *testing.T) {
	one, err := unpacked(t, 1<<20, layer(t, 0, file("a"), hard("b", "a")), layer(t, 1, file("a")))
	if err != nil {
		t.Fatal(err)
	}
	if one.names["a"].sum == one.names["b"].sum {
		t.Error("the new file has changed the old one's other name")
	}
	twice := tar.Header{Typeflag: tar.TypeReg, Name: "./a", Mode: 0o600}
	two, err := unpacked(t, 1<<20, layer(t, 0, file("a"), twice))
	if err != nil {
		t.Fatal(err)
	}
	if two.names["a"].attr.Mode != modeRegular|0o600 {
		t.Errorf("got mode %o", two.names["a"].attr.Mode)
	}
}

// TestAttributes looks at what an entry has beside its name.
func TestAttributes(t *testing.T) {
	h := tar.Header{Typeflag: tar.TypeReg, Name: "ping", Mode: 0o6755, Uid: 4_000_000_000, Gid: 7, ModTime: when.Add(5),
		PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02", "SCHILY.xattr.security.selinux": "x", "other": "y"}}
	m, err := unpacked(t, 1<<20, layer(t, 0, h, dir("a"), tar.Header{Typeflag: tar.TypeDir, Name: "a", Mode: 0o1777, Uid: 3}, dir("."),
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}))
	if err != nil {
		t.Fatal(err)
	}
	a := m.names["ping"].attr
	if a.Mode != modeRegular|0o6755 || a.UID != 4_000_000_000 || a.GID != 7 || !a.Mtime.Equal(when.Add(5)) {
		t.Errorf("got %+v", a)
	}
	if len(a.Xattrs) != 1 || string(a.Xattrs["security.capability"]) != "\x01\x00\x00\x02" {
		t.Errorf("extended attributes: %q", a.Xattrs)
	}
	if d := m.names["a"].attr; d.Mode != modeDir|0o1777 || d.UID != 3 {
		t.Errorf("a directory that comes twice: %+v", d)
	}
	if n := m.names["null"].attr; n.Mode != modeChar|0o666 || n.Major != 1 || n.Minor != 3 {
		t.Errorf("a device: %+v", n)
	}
}

// TestRefused has layers that are no layers, and what is said of them.
func TestRefused(t *testing.T) {
	big := file("a")
	big.Size = 1 << 40
	tests := map[string]struct {
		layer []byte
		say   string
	}{
		"..":                  {layer(t, 0, file("../a")), "leaves the image"},
		".. in the middle":    {layer(t, 0, file("a/../../b")), "leaves the image"},
		"absolute ..":         {layer(t, 0, file("/../b")), "leaves the image"},
		"out by a link":       {layer(t, 0, link("a", "../../etc"), file("a/x")), "symbolic link out of the image"},
		"out by a deep link":  {layer(t, 0, dir("d/e"), link("d/e/a", "../../.."), file("d/e/a/x")), "symbolic link out of the image"},
		"out by /..":          {layer(t, 0, link("a", "/../etc"), file("a/x")), "symbolic link out of the image"},
		"whiteout by a link":  {layer(t, 0, link("a", ".."), file("a/.wh.x")), "symbolic link out of the image"},
		"hard link outside":   {layer(t, 0, hard("a", "../etc/passwd")), "leaves the image"},
		"hard link by a link": {layer(t, 0, link("a", "../.."), hard("b", "a/etc/passwd")), "symbolic link out of the image"},
		"hard link nowhere":   {layer(t, 0, hard("a", "b")), "is not there"},
		"hard link to itself": {layer(t, 0, file("a"), hard("a", "a")), "is not there"},
		"hard link to a dir":  {layer(t, 0, dir("b"), hard("a", "b")), "is a directory"},
		"hard link to root":   {layer(t, 0, hard("a", "/")), "hard link to the root"},
		"a loop":              {layer(t, 0, link("a", "b"), link("b", "a"), file("a/x")), "too many symbolic links"},
		"through a file":      {layer(t, 0, file("a"), file("a/b")), "is no directory"},
		"long name":           {layer(t, 0, file(strings.Repeat("x", 256))), "255"},
		"long path":           {layer(t, 0, file(strings.Repeat("x/", 2048)+"y")), "4095"},
		"long link":           {layer(t, 0, link("a", strings.Repeat("x/", 2048)+"y")), "4095"},
		"long by links":       {layer(t, 0, link("a", "b/"+strings.Repeat("x/", 1500)), link("b", strings.Repeat("y/", 1000)), file("a/z")), "4095"},
		"whiteout of ..":      {layer(t, 0, file("a/.wh...")), "whiteout of nothing"},
		"whiteout of .":       {layer(t, 0, file("a/.wh..")), "whiteout of nothing"},
		"bare whiteout":       {layer(t, 0, file("a/.wh.")), "whiteout of nothing"},
		"root as a file":      {layer(t, 0, file(".")), "root is no directory"},
		"device number":       {layer(t, 0, tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1 << 20}), "device number"},
		"unknown type":        {layer(t, 0, tar.Header{Typeflag: 'Z', Name: "a"}), "type"},
		"cut off":             {layer(t, 0, file("a"))[:520], "cut off"},
		"cut in a header":     {layer(t, 0, file("a"), file("b"))[:1200], "cut off"},
		"no tar":              {bytes.Repeat([]byte("this is no tar"), 100), "no tar archive"},
		"too large":           {bytes.Repeat([]byte{0}, 2<<20), "more than 1 MiB"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := unpacked(t, 1<<20, test.layer)
			if err == nil || !strings.Contains(err.Error(), test.say) {
				t.Fatalf("got %v, want %q", err, test.say)
			}
			var told *api.Error
			if !errors.Is(err, ErrBadImage) || !errors.As(err, &told) || told.Hint == "" {
				t.Errorf("%v is no ErrBadImage, or has no hint", err)
			}
		})
	}
}

// TestSparseBomb has a header that claims a terabyte of holes in a kilobyte.
func TestSparseBomb(t *testing.T) {
	m := newMemory()
	u := newUnpacker(m, 1<<30)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "holes", Size: 1 << 40, Mode: 0o644}
	if err := u.entry(h, endless{}); err == nil || !strings.Contains(err.Error(), "more than 1024 MiB") {
		t.Errorf("got %v", err)
	}
	if m.paths() != "" {
		t.Errorf("made %s", m.paths())
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestManyEntries has more files than the limit allows.
func TestManyEntries(t *testing.T) {
	var entries []tar.Header
	for i := range 100 {
		entries = append(entries, dir(fmt.Sprint(i)))
	}
	if _, err := unpacked(t, 1<<20, layer(t, 0, entries...)); err == nil || !strings.Contains(err.Error(), "more than 64 files") {
		t.Errorf("got %v", err)
	}
}

// FuzzLayers unpacks two layers of any bytes: what comes out is a tree that
// keeps the filesystem's rules, or an error.
func FuzzLayers(f *testing.F) {
	f.Add(layer(f, 0, dir("a"), file("a/b"), link("l", "a"), hard("h", "a/b")), layer(f, 1, file("a/.wh.b"), file("l/c"), file(".wh.h")))
	f.Add(layer(f, 0, file("a/b/c"), link("x", "../..")), layer(f, 1, file("a/.wh..wh..opq"), file("x/y")))
	f.Add(layer(f, 0, link("a", "b"), link("b", "a")), layer(f, 1, file("a"), dir("b"), file("b/c")))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		m, err := unpacked(t, 1<<20, lower, upper)
		var told *api.Error
		if err != nil && !errors.As(err, &told) {
			t.Errorf("an error that has no kind: %v", err)
		}
		for name := range m.names {
			if parent := path.Dir("/" + name)[1:]; !isDir(m.names[parent]) {
				t.Errorf("%q is in %q, which is no directory", name, parent)
			}
		}
	})
}
