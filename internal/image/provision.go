package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// sshdConfig is read by sshd before its own settings, of which the first one
// wins. A key is the only way in; StrictModes is off since a workspace copied
// into /root may bring any mode for it.
const sshdConfig = `# Written by banger.
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UseDNS no
`

// hosts has no name of the machine: that comes with the machine.
const hosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
ff02::1	ip6-allnodes
ff02::2	ip6-allrouters
`

// provisioned are the files that every image gets.
var provisioned = []struct {
	name, content string
	mode          fs.FileMode
}{
	{"etc/ssh/sshd_config.d/00-banger.conf", sshdConfig, 0o644},
	{"etc/tmpfiles.d/banger-sshd.conf", "d /run/sshd 0755 root root -\n", 0o644}, // for sshd -T before the first login
	{"etc/hosts", hosts, 0o644},
	{"etc/hostname", "banger\n", 0o644},
	{"etc/fstab", "# The root filesystem is mounted by banger.\n", 0o644},
	{"etc/default/locale", "LANG=C.UTF-8\n", 0o644},
	{"etc/machine-id", "", 0o444},
}

// masked are units that a sandbox has no use for and that cost its boot: jobs
// by the clock, logins on consoles, and waiting for a network that the agent
// has set up already.
var masked = []string{
	"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
	"fstrim.timer", "man-db.timer", "logrotate.timer", "motd-news.timer", "systemd-tmpfiles-clean.timer",
	"getty@tty1.service", "serial-getty@ttyS0.service", "console-getty.service", "getty-static.service",
	"systemd-networkd-wait-online.service", "NetworkManager-wait-online.service",
	"systemd-pstore.service", "systemd-firstboot.service",
	"apparmor.service", // Docker loads its own profile when it needs it
}

// onDemand are services that their sockets start: sshd and Docker cost a boot
// seconds, and a VM that nobody logs in to, or that runs no container, needs
// neither. docker.service itself wants containerd.
var onDemand = []struct{ service, socket string }{
	{"ssh.service", "ssh.socket"},
	{"docker.service", "docker.socket"},
	{"containerd.service", ""},
}

const unitDir = "etc/systemd/system"

// Provision makes a system in the directory tree ready to be an image: root
// gets in by key alone, nothing in it is unique to one machine, and its boot
// is short and quiet. It may be called twice.
func Provision(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return fmt.Errorf("cannot provision: %w", err)
	}
	defer root.Close()
	steps := []func(*os.Root) error{writeProvisioned, lockPassword, removeHostKeys, maskUnits, useSockets}
	for _, do := range steps {
		if err := do(root); err != nil {
			return fmt.Errorf("cannot provision: %w", err)
		}
	}
	return nil
}

func writeProvisioned(root *os.Root) error {
	for _, f := range provisioned {
		if err := writeNew(root, f.name, f.content, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// writeNew replaces a file; a link in its place is not followed.
func writeNew(root *os.Root, name, content string, mode fs.FileMode) error {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	if err := removeIfThere(root, name); err != nil {
		return err
	}
	return root.WriteFile(name, []byte(content), mode)
}

func removeIfThere(root *os.Root, name string) error {
	if err := root.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// lockPassword gives root a password field that no password matches. It is "*"
// and not "!", with which sshd without PAM refuses keys too.
func lockPassword(root *os.Root) error {
	shadow, err := root.ReadFile("etc/shadow")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(string(shadow), "\n")
	for i, line := range lines {
		fields := strings.Split(line, ":")
		if fields[0] == "root" && len(fields) > 1 {
			fields[1] = "*"
			lines[i] = strings.Join(fields, ":")
		}
	}
	return root.WriteFile("etc/shadow", []byte(strings.Join(lines, "\n")), 0o640) // the mode of one that exists stays
}

func removeHostKeys(root *os.Root) error {
	keys, err := fs.Glob(root.FS(), "etc/ssh/ssh_host_*")
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := root.Remove(key); err != nil {
			return err
		}
	}
	return nil
}

// maskUnits does what `systemctl mask` does.
func maskUnits(root *os.Root) error {
	if err := root.MkdirAll(unitDir, 0o755); err != nil {
		return err
	}
	for _, unit := range masked {
		if err := link(root, "/dev/null", path.Join(unitDir, unit)); err != nil {
			return err
		}
	}
	return nil
}

// useSockets does what `systemctl disable` of the services and `systemctl
// enable` of their sockets do, where these units are.
func useSockets(root *os.Root) error {
	for _, u := range onDemand {
		if u.socket != "" {
			unit := "usr/lib/systemd/system/" + u.socket
			if _, err := root.Stat(unit); err != nil {
				continue // without its socket the service stays as it is
			}
			wants := path.Join(unitDir, "sockets.target.wants")
			if err := root.MkdirAll(wants, 0o755); err != nil {
				return err
			}
			if err := link(root, "/"+unit, path.Join(wants, u.socket)); err != nil {
				return err
			}
		}
		if err := removeIfThere(root, path.Join(unitDir, "multi-user.target.wants", u.service)); err != nil {
			return err
		}
	}
	return nil
}

// link makes a symbolic link, replacing what is there.
func link(root *os.Root, to, name string) error {
	if err := removeIfThere(root, name); err != nil {
		return err
	}
	return root.Symlink(to, name)
}
