package debian

import (
	"archive/tar"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func unpackInto(t *testing.T, dir string, deb []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.deb")
	writeFile(t, path, string(deb))
	return Unpack(t.Context(), path, dir)
}

func TestUnpack(t *testing.T) {
	day := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, suffix := range []string{"", ".xz", ".gz", ".zst"} {
		t.Run("data.tar"+suffix, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("usr/bin", filepath.Join(dir, "bin")); err != nil {
				t.Fatal(err)
			}
			program := file("./bin/program", 0o4755, "new")
			program.ModTime = day
			uid, gid := os.Geteuid(), os.Getegid()
			program.Uid, program.Gid = uid, gid
			writeFile(t, filepath.Join(dir, "usr/bin/program"), "old and longer")
			err := unpackInto(t, dir, makeDeb(t, suffix,
				tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
				tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: uid, Gid: gid},
				tar.Header{Name: "./var/secret/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: uid, Gid: gid},
				program,
				tar.Header{Name: "./bin/hard", Typeflag: tar.TypeLink, Linkname: "./bin/program"},
				tar.Header{Name: "./etc/soft", Typeflag: tar.TypeSymlink, Linkname: "/bin/program", Uid: uid, Gid: gid},
				tar.Header{Name: "./run/fifo", Typeflag: tar.TypeFifo, Mode: 0o620, Uid: uid, Gid: gid},
			))
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(filepath.Join(dir, "usr/bin/program"))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o755|fs.ModeSetuid || !info.ModTime().Equal(day) || info.Size() != 3 {
				t.Errorf("program: %v %v %d", info.Mode(), info.ModTime(), info.Size())
			}
			hard, err := os.Stat(filepath.Join(dir, "usr/bin/hard"))
			if err != nil || !os.SameFile(info, hard) {
				t.Errorf("the hard link is another file: %v", err)
			}
			if to, err := os.Readlink(filepath.Join(dir, "etc/soft")); err != nil || to != "/bin/program" {
				t.Errorf("the link leads to %q, %v", to, err)
			}
			if to, _ := os.Readlink(filepath.Join(dir, "bin")); to != "usr/bin" {
				t.Errorf("/bin became %q", to)
			}
			if info, err := os.Stat(filepath.Join(dir, "var/secret")); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("directory: %v %v", info, err)
			}
			if info, err := os.Stat(filepath.Join(dir, "run/fifo")); err != nil || info.Mode() != fs.ModeNamedPipe|0o620 {
				t.Errorf("fifo: %v %v", info, err)
			}
		})
	}
}

// TestUnpackStaysInside holds that nothing is written outside of the
// directory, and that the attempt is an error.
func TestUnpackStaysInside(t *testing.T) {
	uid, gid := os.Geteuid(), os.Getegid()
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Uid: uid, Gid: gid}
	}
	tests := map[string][]tar.Header{
		"up":                       {file("../outside/x", 0o644, "bad")},
		"up from below":            {file("a/../../outside/x", 0o644, "bad")},
		"through a relative link":  {link("l", "../outside"), file("l/x", 0o644, "bad")},
		"through an absolute link": {link("l", "{outside}"), file("l/x", 0o644, "bad")},
		"through two links":        {link("a", ".."), link("l", "a/outside"), file("l/x", 0o644, "bad")},
		"a directory by a link":    {link("l", "../outside"), {Name: "l/x", Typeflag: tar.TypeDir, Mode: 0o755}},
		"a hard link out":          {{Name: "l", Typeflag: tar.TypeLink, Linkname: "../outside/there"}},
	}
	for name, entries := range tests {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			dir, outside := filepath.Join(base, "in"), filepath.Join(base, "outside")
			writeFile(t, filepath.Join(outside, "there"), "x")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for i, h := range entries {
				if h.Linkname == "{outside}" {
					entries[i].Linkname = outside
				}
				entries[i].Uid, entries[i].Gid = uid, gid
			}
			if err := unpackInto(t, dir, makeDeb(t, ".gz", entries...)); err == nil {
				t.Error("it is no error")
			}
			if _, err := os.Lstat(filepath.Join(outside, "x")); err == nil {
				t.Error("it was written outside")
			}
		})
	}
}

func TestUnpackWrongFiles(t *testing.T) {
	good := makeDeb(t, ".gz", file("a", 0o644, "x"))
	tests := map[string][]byte{
		"empty":            {},
		"no archive":       []byte("hello, this is no archive"),
		"cut off":          good[:len(good)-20],
		"no data":          good[:8+60+4+60+14],
		"unknown packing":  makeDeb(t, ".lzma", file("a", 0o644, "x")),
		"other format":     append([]byte("!<arch>\ndebian-binary   0           0     0     644     4         `\n3.0\n"), good[72:]...),
		"unknown entry":    makeDeb(t, "", tar.Header{Name: "a", Typeflag: tar.TypeCont, Mode: 0o644}),
		"file for a tree":  makeDeb(t, "", file("d", 0o644, "x")),
		"tree for a file":  makeDeb(t, "", tar.Header{Name: "f", Typeflag: tar.TypeDir, Mode: 0o755}),
		"tree for a link":  makeDeb(t, "", tar.Header{Name: "l", Typeflag: tar.TypeDir, Mode: 0o755}),
		"not even a name!": []byte("!<arch>\n" + string(make([]byte, 60))),
	}
	for name, deb := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "d/inside"), "x")
			writeFile(t, filepath.Join(dir, "f"), "x")
			if err := os.Symlink("f", filepath.Join(dir, "l")); err != nil {
				t.Fatal(err)
			}
			if err := unpackInto(t, dir, deb); err == nil {
				t.Error("it passes")
			}
		})
	}
}
