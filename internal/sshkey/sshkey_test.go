package sshkey_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/banger-vm/banger/internal/sshkey"
)

func TestEnsureMakesOneKeyForMany(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ssh", "id_ed25519")
	keys := make([]sshkey.Key, 10)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			key, err := sshkey.Ensure(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	wg.Wait()
	for _, key := range keys {
		if key != keys[0] {
			t.Errorf("two keys: %q and %q", key.Authorized, keys[0].Authorized)
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode of the private key is %v", info.Mode())
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if string(public) != keys[0].Authorized+" banger\n" {
		t.Errorf("public half is %q, want %q", public, keys[0].Authorized)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".key-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestLoadAgreesWithSSHKeygen(t *testing.T) {
	for _, c := range []struct{ name, passphrase, format string }{
		{"plain", "", "RFC4716"},
		{"locked", "secret", "RFC4716"},
		{"locked PEM", "secret", "PEM"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			keygen := exec.Command("ssh-keygen", "-q", "-t", "ecdsa", "-m", c.format, "-N", c.passphrase, "-C", "", "-f", path)
			if out, err := keygen.CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			key, err := sshkey.Ensure(path)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(path + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			if key.Authorized != strings.TrimSpace(string(want)) {
				t.Errorf("got %q, want %q", key.Authorized, want)
			}
		})
	}
}

func TestEnsureKeepsWhatIsNoKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sshkey.Ensure(path); err == nil {
		t.Error("took a text for a key")
	}
	if data, _ := os.ReadFile(path); string(data) != "precious" {
		t.Errorf("the file is now %q", data)
	}
}
