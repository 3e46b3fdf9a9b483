package agent_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// packaged is a guest with busybox's init and a small package manager: apt-get
// installs a server while the file "mirror" is there, and dpkg has nothing to do.
type packaged struct {
	guest
	programs string
	addr     string       // where its server is to listen
	server   net.Listener // the server that listens
}

func newPackaged(t *testing.T, root string) packaged {
	t.Helper()
	p := packaged{programs: filepath.Join(root, "programs"), addr: "127.0.0.22:0"} // no other test listens there
	p.listen(t)
	p.server.Close()
	program(t, filepath.Join(p.programs, "dpkg"), "echo mended")
	program(t, filepath.Join(p.programs, "apt-get"), fmt.Sprintf(`root=%s
for last; do :; done
echo "apt-get $last"
[ "$last" != update ] || exit 0
read word < $root/var/lib/banger/openssh
[ "$word" = installing ] || exit 1
while read line; do echo "policy: $line"; done < $root/etc/ssh/sshd_config.d/00-banger.conf
[ -e $root/mirror ] || exit 100
/bin/mkdir -p $root/usr/sbin
/bin/cp $root/programs/sshd $root/usr/sbin/sshd
`, root))
	program(t, filepath.Join(p.programs, "sshd"), `echo "sshd $*."`)
	p.boot(t, root)
	return p
}

// listen has a server that greets.
func (p *packaged) listen(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	p.addr, p.server = l.Addr().String(), l
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, "OpenSSH server")
			conn.Close()
		}
	}()
}

// boot starts the guest's agent anew.
func (p *packaged) boot(t *testing.T, root string) {
	t.Helper()
	write(t, filepath.Join(root, "run/banger/init"), string(proto.InitBusybox)+"\n")
	a := agent.New(agent.Options{Root: root, Version: "v1", Kernel: &memoryKernel{}, SSHD: p.addr})
	socket := filepath.Join(t.TempDir(), "link.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go a.Serve(l)
	p.guest = guestAt(a, root, socket)
}

func program(t *testing.T, path, script string) {
	t.Helper()
	write(t, path, "#!/bin/sh\n"+script)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func (p *packaged) configure(t *testing.T, install bool) {
	t.Helper()
	_, hostKey, _ := newKey(t)
	err := p.Configure(t.Context(), proto.Config{HostKey: hostKey, InstallOpenSSH: install, Env: map[string]string{"PATH": p.programs}})
	if err != nil {
		t.Fatal(err)
	}
}

// logged follows the guest's log until there is a line of the agent's with text,
// and gives the agent's lines.
func (p *packaged) logged(t *testing.T, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	log, err := p.Logs(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	defer context.AfterFunc(ctx, func() { log.Close() })()
	var all strings.Builder
	for !strings.Contains(all.String(), text) {
		line, err := log.Next()
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		if line.Source == proto.LogAgent {
			fmt.Fprintln(&all, line.Text)
		}
	}
	return all.String()
}

// greeting is what answers to a login.
func (p *packaged) greeting(t *testing.T) string {
	t.Helper()
	conn, err := p.SSH(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	word := make([]byte, 7)
	if _, err := io.ReadFull(conn, word); err != nil {
		t.Fatal(err)
	}
	return string(word)
}

// TestInstallSSHD has a guest without a mirror, then one with a mirror, then
// one that has it all.
func TestInstallSSHD(t *testing.T) {
	root := t.TempDir()
	p := newPackaged(t, root)
	p.listen(t)
	p.configure(t, true)
	log := p.logged(t, "the next start tries again")
	for _, want := range []string{"openssh: mended", "policy: PermitRootLogin yes", "cannot install an SSH server: apt-get ended with status 100"} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log:\n%s", want, log)
		}
	}
	// Whatever listens by now, a server that is not installed does not serve.
	if got := p.greeting(t); got != "SSH-2.0" {
		t.Errorf("%q greets after a failed installation", got)
	}

	// One that was started serves when it listens, which is later.
	p.server.Close()
	write(t, filepath.Join(root, "mirror"), "")
	p.boot(t, root)
	p.configure(t, true)
	p.logged(t, "openssh: sshd .\n")
	if got := p.greeting(t); got != "SSH-2.0" {
		t.Errorf("%q greets before the server listens", got)
	}
	if word, err := os.ReadFile(filepath.Join(root, "var/lib/banger/openssh")); err != nil || string(word) != "installing\n" {
		t.Errorf("a server that does not listen is %q, %v", word, err)
	}
	p.listen(t)
	write(t, filepath.Join(root, "run/sshd.pid"), "1\n")
	log = p.logged(t, "serves from now on")
	if !strings.Contains(log, "openssh: sshd -t.\n") || !strings.Contains(log, "openssh: sshd .\n") {
		t.Errorf("the server was not checked and started:\n%s", log)
	}
	if got := p.greeting(t); got != "OpenSSH" {
		t.Errorf("%q greets after the installation", got)
	}

	// Busybox's init has no services: the agent starts it at the next start.
	p.boot(t, root)
	p.configure(t, true)
	if log := p.logged(t, "openssh: sshd .\n"); strings.Contains(log, "apt-get") {
		t.Errorf("it was installed again:\n%s", log)
	}

	// Who takes it away does not want it.
	if err := os.Remove(filepath.Join(root, "usr/sbin/sshd")); err != nil {
		t.Fatal(err)
	}
	p.boot(t, root)
	p.configure(t, true)
	p.quiet(t)
}

// quiet makes sure that nothing of the kind is going on.
func (p *packaged) quiet(t *testing.T) {
	t.Helper()
	log, err := p.Logs(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for {
		line, err := log.Next()
		if err == io.EOF {
			return
		}
		if err != nil || line.Source == proto.LogAgent {
			t.Fatalf("%q, %v", line.Text, err)
		}
	}
}

func TestInstallsNoSSHD(t *testing.T) {
	for name, change := range map[string]func(p *packaged, root string) bool{
		"asked not to":       func(*packaged, string) bool { return false },
		"its own":            func(_ *packaged, root string) bool { program(t, filepath.Join(root, "usr/sbin/sshd"), ""); return true },
		"no package manager": func(p *packaged, _ string) bool { os.RemoveAll(p.programs); return true },
	} {
		root := t.TempDir()
		p := newPackaged(t, root)
		p.configure(t, change(&p, root))
		p.quiet(t)
		if _, err := os.Stat(filepath.Join(root, "var/lib/banger/openssh")); !os.IsNotExist(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
