package credential_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/credential"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	put("good", "secret", 0o600)
	put("everybody", "secret", 0o606)
	put("group", "secret", 0o660)
	put("long", strings.Repeat("x", credential.MaxSize+1), 0o600)
	put("longest", strings.Repeat("x", credential.MaxSize), 0o600)
	if err := unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("good", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"good": "", "group": "", "longest": "", "link": "",
		"none": "no such file", "good/below": "no such file", "everybody": "everybody may write it", "long": "longer than 256 KiB",
		"pipe": "not a regular file", ".": "not a regular file",
	} {
		data, err := credential.File{Host: filepath.Join(dir, name)}.Read()
		if want == "" {
			if err != nil || len(data) == 0 {
				t.Errorf("%s: %d bytes, %v", name, len(data), err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		if credential.IsMissing(err) != strings.Contains(want, "no such file") {
			t.Errorf("%s: missing or not: %v", name, err)
		}
	}
}

func TestStandard(t *testing.T) {
	files := credential.Standard("/home/u")
	if len(files) != 3 || files[1] != (credential.File{Host: "/home/u/.claude/.credentials.json", Guest: "/root/.claude/.credentials.json"}) {
		t.Errorf("%+v", files)
	}
}
