package image

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func put(t *testing.T, tree, name, content string) {
	t.Helper()
	path := filepath.Join(tree, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestProvision(t *testing.T) {
	tree := t.TempDir()
	put(t, tree, "etc/shadow", "first:!:1::\nroot:$y$secret:2:0:99999:7:::\nlast:*:3::\n")
	put(t, tree, "etc/machine-id", "0123456789abcdef\n")
	put(t, tree, "etc/ssh/ssh_host_ed25519_key", "secret")
	put(t, tree, "etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n")
	for _, unit := range []string{"ssh.socket", "ssh.service", "docker.socket", "docker.service", "containerd.service"} {
		put(t, tree, "usr/lib/systemd/system/"+unit, "")
		put(t, tree, "etc/systemd/system/multi-user.target.wants/"+unit, "")
	}
	put(t, tree, "etc/systemd/system/multi-user.target.wants/mine.service", "")
	for range 2 { // twice is as good as once
		if err := Provision(tree); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(tree, name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	if got := read("etc/shadow"); got != "first:!:1::\nroot:*:2:0:99999:7:::\nlast:*:3::\n" {
		t.Errorf("shadow: %q", got)
	}
	if info, err := os.Stat(filepath.Join(tree, "etc/shadow")); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("shadow: %v, %v", info, err)
	}
	if got := read("etc/machine-id"); got != "" {
		t.Errorf("machine-id: %q", got)
	}
	if got := read("etc/fstab"); strings.Contains(got, "sda1") {
		t.Errorf("fstab: %q", got)
	}
	for _, line := range []string{"PermitRootLogin yes", "StrictModes no", "PasswordAuthentication no"} {
		if !strings.Contains(read("etc/ssh/sshd_config.d/00-banger.conf"), line+"\n") {
			t.Errorf("sshd is not told %q", line)
		}
	}
	if _, err := os.Lstat(filepath.Join(tree, "etc/ssh/ssh_host_ed25519_key")); err == nil {
		t.Error("a host key is left")
	}
	for unit, want := range map[string]string{
		"serial-getty@ttyS0.service":         "/dev/null",
		"apt-daily.timer":                    "/dev/null",
		"sockets.target.wants/ssh.socket":    "/usr/lib/systemd/system/ssh.socket",
		"sockets.target.wants/docker.socket": "/usr/lib/systemd/system/docker.socket",
	} {
		if got, err := os.Readlink(filepath.Join(tree, unitDir, unit)); err != nil || got != want {
			t.Errorf("%s leads to %q, %v", unit, got, err)
		}
	}
	wants, err := fs.Glob(os.DirFS(tree), unitDir+"/multi-user.target.wants/*.service")
	if err != nil || len(wants) != 1 || filepath.Base(wants[0]) != "mine.service" {
		t.Errorf("started at boot: %v, %v", wants, err)
	}
}

// TestProvisionSmall has neither systemd nor sshd nor users.
func TestProvisionSmall(t *testing.T) {
	if err := Provision(t.TempDir()); err != nil {
		t.Fatal(err)
	}
}

// TestProvisionStaysInside has links where files are written.
func TestProvisionStaysInside(t *testing.T) {
	base := t.TempDir()
	put(t, base, "outside", "mine")
	tree := filepath.Join(base, "tree")
	if err := os.MkdirAll(filepath.Join(tree, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(base, "outside"), filepath.Join(tree, "etc/hostname")); err != nil {
		t.Fatal(err)
	}
	if err := Provision(tree); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(base, filepath.Join(tree, "etc/systemd.new")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(tree, "etc/systemd")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(tree, "etc/systemd.new"), filepath.Join(tree, "etc/systemd")); err != nil {
		t.Fatal(err)
	}
	if err := Provision(tree); err == nil {
		t.Error("it follows a link out of the tree")
	}
	if got, err := os.ReadFile(filepath.Join(base, "outside")); err != nil || string(got) != "mine" {
		t.Errorf("outside holds %q, %v", got, err)
	}
}
