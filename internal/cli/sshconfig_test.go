package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sshBy runs the host's ssh with the person's own configuration.
func (h home) sshBy(args ...string) (string, error) {
	ssh := exec.Command("ssh", append([]string{"-F", filepath.Join(h.dir, ".ssh/config"), "-o", "BatchMode=yes"}, args...)...)
	ssh.Env = h.env
	out, err := ssh.CombinedOutput()
	return string(out), err
}

func TestSSHConfigIsInstalledAndTakenBack(t *testing.T) {
	h := newHome(t)
	config := filepath.Join(h.dir, ".ssh/config")
	// A dotfiles manager's link, with another mode and no line end.
	own := "Host *.example.com\n  User me\n\nHost last\n  Port 7"
	real := filepath.Join(h.dir, "dotfiles-ssh")
	if err := os.WriteFile(real, []byte(own), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, config); err != nil {
		t.Fatal(err)
	}
	h.run("vm", "create", "--name", "early")
	h.run("vm", "ssh-config", "--install")
	once, err := os.ReadFile(config)
	if err != nil || !strings.HasSuffix(string(once), own) {
		t.Fatalf("%q, %v", once, err)
	}
	h.run("vm", "ssh-config", "--install")
	if again, _ := os.ReadFile(config); string(again) != string(once) {
		t.Errorf("the second time: %q", again)
	}
	if info, err := os.Lstat(config); err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if info, err := os.Stat(real); err != nil || info.Mode() != 0o640 {
		t.Errorf("the mode changed: %v, %v", info.Mode(), err)
	}
	h.run("vm", "create", "--name", "late")
	for _, name := range []string{"banger-early", "banger-late"} {
		if out, err := h.sshBy(name, "echo", "in", "the", "guest"); err != nil || out != "in the guest\n" {
			t.Errorf("%s: %q, %v", name, out, err)
		}
	}
	if out, err := h.sshBy("banger-none", "true"); err == nil || !strings.Contains(out, "none") {
		t.Errorf("a VM that is not there: %q, %v", out, err)
	}
	h.run("vm", "ssh-config", "--uninstall")
	if back, err := os.ReadFile(config); err != nil || string(back) != own {
		t.Errorf("%q, %v", back, err)
	}
	if _, err := os.Stat(filepath.Join(h.dir, ".config/banger/ssh/config")); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

func TestSSHConfigWithoutAnyBefore(t *testing.T) {
	h := newHome(t)
	h.run("vm", "create", "--name", "a")
	h.run("vm", "ssh-config", "--install")
	if info, err := os.Stat(filepath.Join(h.dir, ".ssh/config")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	h.run("vm", "ssh-config", "--uninstall")
	if text, err := os.ReadFile(filepath.Join(h.dir, ".ssh/config")); err != nil || len(text) > 0 {
		t.Errorf("%q, %v", text, err)
	}
	printed := h.run("vm", "ssh-config", "a")
	for _, line := range []string{"Host banger-a\n", "  StrictHostKeyChecking yes\n", "  ForwardAgent no\n"} {
		if !strings.Contains(printed, line) {
			t.Errorf("%q lacks %q", printed, line)
		}
	}
}

func TestSSHTakesItsOwnOptions(t *testing.T) {
	h := newHome(t)
	h.run("vm", "create", "--name", "a")
	out := h.run("vm", "ssh", "a", "-o", "SetEnv=X=y", "-v", "--", "echo", "two  words")
	if !strings.Contains(out, "two  words\n") || !strings.Contains(out, "debug1:") {
		t.Errorf("%q", out)
	}
}

// TestOneKeyIsForwarded has a guest look at what it may use of its user's keys.
func TestOneKeyIsForwarded(t *testing.T) {
	h := newHome(t)
	h.run("vm", "create", "--name", "a")
	for _, name := range []string{"mine", "other"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", filepath.Join(h.dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	public, err := os.ReadFile(filepath.Join(h.dir, "mine.pub"))
	if err != nil {
		t.Fatal(err)
	}
	blob := strings.Fields(string(public))[1]
	if out := h.run("vm", "ssh", "a", "--", "echo ${SSH_AUTH_SOCK:-none}"); !strings.Contains(out, "none") && strings.Contains(out, "/agent") {
		t.Errorf("an agent without being asked for: %q", out)
	}
	// What the guest signs with it holds against the key.
	use := "ssh-add -L; cp mine.pub mykey.pub; echo text | ssh-keygen -q -Y sign -n banger -f mykey.pub && echo signed; ssh-add -D"
	for name, out := range map[string]string{
		"vm ssh":     h.output("vm", "ssh", "a", "--forward-key", "mine", "--", "cd "+h.dir+"; "+use),
		"ssh-config": h.viaConfig(t, "cd "+h.dir+"; "+use),
	} {
		if strings.Count(out, "ssh-ed25519") != 1 || !strings.Contains(out, blob) || !strings.Contains(out, "signed") || strings.Contains(out, "All identities removed") {
			t.Errorf("%s: %q", name, out)
		}
	}
	if out, err := h.command("vm", "ssh", "a", "--forward-key", "nokey", "--", "true").CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot read the key") {
		t.Errorf("%q, %v", out, err)
	}
}

// output is run for a command that may fail.
func (h home) output(args ...string) string {
	out, _ := h.command(args...).CombinedOutput()
	return string(out)
}

func (h home) viaConfig(t *testing.T, command string) string {
	t.Helper()
	h.run("vm", "ssh-config", "--install", "--forward-key", "mine")
	out, _ := h.sshBy("banger-a", command)
	return out
}
