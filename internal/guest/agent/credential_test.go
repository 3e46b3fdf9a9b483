package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func TestCredentialsAreInMemoryAlone(t *testing.T) {
	g := start(t, proto.InitNone)
	const path = "/root/.claude/.credentials.json"
	give := func(data string) {
		t.Helper()
		if err := g.Credential(t.Context(), proto.Credential{Path: path, Data: []byte(data)}); err != nil {
			t.Fatal(err)
		}
	}
	inGuest := filepath.Join(g.root, path)
	// A file that was there gives way, and is not written through.
	write(t, filepath.Join(g.root, "elsewhere"), "untouched")
	write(t, filepath.Join(g.root, "root/.claude/keep"), "kept")
	if err := os.Symlink(filepath.Join(g.root, "elsewhere"), inGuest); err != nil {
		t.Fatal(err)
	}
	give("secret")
	link, err := os.Readlink(inGuest)
	if err != nil || !strings.HasPrefix(link, proto.CredentialDir+"/") {
		t.Fatalf("%q, %v", link, err)
	}
	kept := filepath.Join(g.root, link)
	give("newer")
	if got := read(t, kept); got != "newer" {
		t.Errorf("kept: %q", got)
	}
	for name, want := range map[string]os.FileMode{kept: 0o600, filepath.Dir(kept): 0o700, filepath.Dir(inGuest): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	if got := read(t, filepath.Join(g.root, "elsewhere")); got != "untouched" {
		t.Errorf("written through a link: %q", got)
	}
	// It goes, and nothing beside it; what the guest has put in its place stays.
	take := proto.Credential{Path: path}
	if err := g.Credential(t.Context(), take); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{inGuest, kept} {
		if _, err := os.Lstat(name); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}
	write(t, inGuest, "the guest's own")
	if err := g.Credential(t.Context(), take); err != nil || read(t, inGuest) != "the guest's own" {
		t.Errorf("%v", err)
	}
	if err := g.Credential(t.Context(), proto.Credential{Path: "/no/such/place"}); err != nil {
		t.Error(err)
	}
}

func TestCredentialsFollowNoLink(t *testing.T) {
	g := start(t, proto.InitNone)
	outside := t.TempDir()
	if err := os.MkdirAll(filepath.Join(g.root, "root"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(g.root, "root/.claude")); err != nil {
		t.Fatal(err)
	}
	err := g.Credential(t.Context(), proto.Credential{Path: "/root/.claude/.credentials.json", Data: []byte("secret")})
	if err == nil || !strings.Contains(err.Error(), "not followed") {
		t.Errorf("%v", err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) > 0 {
		t.Errorf("%v was written through a link", entries)
	}
	for _, path := range []string{"", "/", "relative", "/a/../b", "/a/", "/a\x00b"} {
		if err := g.Credential(t.Context(), proto.Credential{Path: path, Data: []byte("x")}); err == nil {
			t.Errorf("%q was taken", path)
		}
	}
}
