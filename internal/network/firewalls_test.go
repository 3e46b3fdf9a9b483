//go:build hosttest

package network

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/network/ruleset"
)

// wall is a firewall of the host's own.
type wall struct {
	start  func()
	reload func()
}

// walls are the firewalls that banger works beside. Each is the real program,
// but for Docker, whose rules are loaded as it leaves them.
var walls = map[string]func(*lab) wall{
	"docker":    func(l *lab) wall { return l.docker("testdata/docker.rules") },
	"docker28":  func(l *lab) wall { return l.docker("testdata/docker28.rules") },
	"ufw":       (*lab).ufw,
	"firewalld": (*lab).firewalld,
}

func TestBesideDocker(t *testing.T)    { besideWall(t, "docker") }
func TestBesideDocker28(t *testing.T)  { besideWall(t, "docker28") }
func TestBesideUfw(t *testing.T)       { besideWall(t, "ufw") }
func TestBesideFirewalld(t *testing.T) { besideWall(t, "firewalld") }

// besideWall has the firewall there first, reloads it, and takes banger away.
func besideWall(t *testing.T, name string) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.watchRules()
	w := walls[name](l)
	w.start()
	n := New(l.cfg, l.log)
	guests := l.guests(n, 1)
	guests[0].works()
	guests[0].mayNot()

	w.reload()
	l.until("a guest works after a reload of "+name, guests[0].isWell)
	guests[0].works()
	guests[0].mayNot()

	must(t, n.Close(context.Background(), nil))
	if left := l.rules(); strings.Contains(left, l.cfg.Bridge) {
		t.Errorf("beside %s something is left:\n%s", name, left)
	}
}

func TestDockerStartsLater(t *testing.T)    { wallLater(t, "docker") }
func TestUfwStartsLater(t *testing.T)       { wallLater(t, "ufw") }
func TestFirewalldStartsLater(t *testing.T) { wallLater(t, "firewalld") }

// wallLater has banger there first.
func wallLater(t *testing.T, name string) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	l.watchRules()
	guests := l.guests(l.network(), 1)
	guests[0].works()
	walls[name](l).start()
	l.until("a guest works after the start of "+name, guests[0].isWell)
	guests[0].mayNot()
}

// shy is a host on which no firewall is told of the bridge.
type shy struct{ *linux }

func (shy) openChains(Config) error                { return nil }
func (shy) openFirewalld(context.Context, Config)  {}
func (shy) closeFirewalld(context.Context, Config) {}

func TestDockerWouldBlock(t *testing.T)    { wouldBlock(t, "docker") }
func TestDocker28WouldBlock(t *testing.T)  { wouldBlock(t, "docker28") }
func TestUfwWouldBlock(t *testing.T)       { wouldBlock(t, "ufw") }
func TestFirewalldWouldBlock(t *testing.T) { wouldBlock(t, "firewalld") }

// wouldBlock shows that the accept rules are needed.
func wouldBlock(t *testing.T, name string) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	walls[name](l).start()
	n := newOn(shy{newLinux(l.log)}, l.cfg, l.log)
	guests := l.guests(n, 1)
	if guests[0].isWell() {
		t.Errorf("a guest works beside %s without its accept rules too", name)
	}
	must(t, n.Close(context.Background(), nil))
}

// isWell is all that a firewall of the host could stop.
func (g *guest) isWell() bool {
	if _, err := g.dial(g.ns, webServer, 80, shortly); err != nil {
		return false
	}
	return g.lookUp("udp", shortly) == nil
}

// mayNot checks that a firewall's accept does not go further than banger's own
// rules.
func (g *guest) mayNot() {
	g.t.Helper()
	g.in(g.host, func() {
		if !g.served {
			g.serveTCP(":8080")
			g.served = true
		}
	})
	if _, err := g.dial(g.ns, g.Gateway, 8080, shortly); err == nil {
		g.t.Error("a guest reaches a service of the host")
	}
	if _, err := g.dial(g.ns, metadata, 80, shortly); err == nil {
		g.t.Error("a guest reaches the metadata service")
	}
}

// watchRules begins to hear every change of rules, the network's own too.
func (l *lab) watchRules() {
	l.t.Helper()
	w, err := new(ruleset.Kernel).NewWatch()
	must(l.t, err)
	l.t.Cleanup(func() { w.Close() })
	l.changes = w
}

// until waits, from change to change of the rules, for it to be so. It asks again
// without one too: a busy host may have answered too late.
func (l *lab) until(what string, isSo func() bool) {
	l.t.Helper()
	late := time.After(20 * time.Second)
	for !isSo() {
		select {
		case <-l.changes.Changed():
		case <-time.After(shortly):
		case <-late:
			l.t.Fatalf("still not so: %s\n%s", what, l.rules())
		}
	}
}

// rules is what nft lists, without counts, and without who is counted, which
// changes with what the guests do.
func (l *lab) rules() string {
	l.t.Helper()
	return counted.ReplaceAllString(l.run("nft", "--stateless", "list", "ruleset"), "$1")
}

var counted = regexp.MustCompile(`(set connections \{[^}]*)\n\t\telements = \{[^}]*\}`)

func (l *lab) docker(file string) wall {
	restore := func() { l.t.Helper(); l.run("iptables-nft-restore", file) }
	return wall{start: restore, reload: restore} // a restart writes all of it anew
}

// ufw is the real one, on a copy of its configuration.
func (l *lab) ufw() wall {
	l.t.Helper()
	l.copyOver("/etc/ufw")
	l.copyOver("/run") // its lock
	return wall{
		start:  func() { l.t.Helper(); l.run("ufw", "--force", "enable") },
		reload: func() { l.t.Helper(); l.run("ufw", "reload") },
	}
}

// copyOver puts a copy of the directory in its place, in this mount namespace.
func (l *lab) copyOver(dir string) {
	l.t.Helper()
	copied := filepath.Join(l.t.TempDir(), "copy")
	if dir == "/run" {
		must(l.t, os.Mkdir(copied, 0o755))
	} else {
		must(l.t, os.CopyFS(copied, os.DirFS(dir)))
	}
	must(l.t, unix.Mount(copied, dir, "", unix.MS_BIND, ""))
	l.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <listen>unix:path=%s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default"><allow send_destination="*"/><allow receive_sender="*"/><allow own="*"/><allow user="*"/></policy>
</busconfig>
`

// firewalld is the real one, on a bus of its own.
func (l *lab) firewalld() wall {
	l.t.Helper()
	dir := l.t.TempDir()
	socket := filepath.Join(dir, "bus")
	config := filepath.Join(dir, "bus.conf")
	must(l.t, os.WriteFile(config, fmt.Appendf(nil, busConfig, socket), 0o600))
	l.copyOver("/etc/firewalld")
	l.t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+socket)
	l.startBus(config)
	return wall{start: l.startFirewalld, reload: l.reloadFirewalld}
}

// startBus starts it and waits until it says its address.
func (l *lab) startBus(config string) {
	l.t.Helper()
	cmd := exec.Command("dbus-daemon", "--nofork", "--print-address", "--config-file="+config)
	out, err := cmd.StdoutPipe()
	must(l.t, err)
	l.begin(cmd)
	_, err = out.Read(make([]byte, 1024))
	must(l.t, err)
}

// startFirewalld waits until it owns its name, and so serves.
func (l *lab) startFirewalld() {
	l.t.Helper()
	conn, err := dbus.ConnectSystemBus()
	must(l.t, err)
	l.t.Cleanup(func() { conn.Close() })
	must(l.t, conn.AddMatchSignal(dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, "org.fedoraproject.FirewallD1")))
	signals := make(chan *dbus.Signal, 10)
	conn.Signal(signals)
	l.begin(exec.Command("firewalld", "--nofork", "--nopid", "--log-file="+filepath.Join(l.t.TempDir(), "log")))
	select {
	case <-signals:
	case <-time.After(20 * time.Second):
		l.t.Fatal("firewalld does not start")
	}
	state := func() bool {
		out, _ := exec.Command("firewall-cmd", "--state").CombinedOutput()
		return strings.TrimSpace(string(out)) == "running"
	}
	l.watchedUntil("firewalld runs", state)
}

func (l *lab) reloadFirewalld() { l.t.Helper(); l.run("firewall-cmd", "--reload") }

// watchedUntil is until, for a lab that does not watch yet.
func (l *lab) watchedUntil(what string, isSo func() bool) {
	l.t.Helper()
	if l.changes == nil {
		l.watchRules()
	}
	l.until(what, isSo)
}

// begin starts a program that ends with the test.
func (l *lab) begin(cmd *exec.Cmd) {
	l.t.Helper()
	must(l.t, cmd.Start())
	l.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}
