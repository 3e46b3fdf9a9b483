package guestinit

import (
	"os"

	"golang.org/x/sys/unix"
)

// runtimeFile is a file that tells the image's programs about this machine.
// All are in /run, so nothing of them gets onto the image's disk.
type runtimeFile struct{ path, text string }

// commonFiles are for every kind of init.
var commonFiles = []runtimeFile{
	{"/run/NetworkManager/conf.d/00-banger.conf", `# eth0 is configured by banger.
[device-banger]
match-device=interface-name:eth0
managed=0
`},
	// Debian's ifupdown and busybox's: eth0 is up already.
	{"/run/network/ifstate", "lo=lo\neth0=eth0\n"},
	{"/run/ifstate", "lo=lo\neth0=eth0\n"},
}

// systemdFiles are the units that tell the agent how far the boot has come and
// why the machine ends, and what keeps the console quiet and eth0 alone.
var systemdFiles = []runtimeFile{
	{"/run/systemd/system/banger-ready-default.service", `[Unit]
Description=Tell banger that commands can run
DefaultDependencies=no
After=systemd-tmpfiles-setup.service sockets.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/run/banger/agent notify default
`},
	{"/run/systemd/system/banger-ready-system.service", `[Unit]
Description=Tell banger that the system is up
DefaultDependencies=no
After=default.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=-/run/banger/agent notify system
`},
	goodbyeUnit("poweroff"),
	goodbyeUnit("reboot"),
	goodbyeUnit("halt"),
	{"/run/systemd/network/00-banger-eth0.network", `# eth0 is configured by banger.
[Match]
Name=eth0
[Link]
Unmanaged=yes
`},
	{"/run/systemd/system/networking.service.d/banger.conf", `# eth0 is configured by banger.
[Service]
Environment=EXCLUDE_INTERFACES=eth0
`},
	{"/run/systemd/journald.conf.d/00-banger.conf", `# Each byte on the serial console is an exit of the machine.
[Journal]
ForwardToConsole=no
`},
	// The journal of the filesystem was replayed at the mount.
	{"/run/initramfs/fsck-root", ""},
}

// goodbyeUnit runs at the start of a shutdown. (An instance of a template would
// not: its slice goes with the shutdown, and so does its job.)
func goodbyeUnit(reason string) runtimeFile {
	return runtimeFile{"/run/systemd/system/banger-goodbye-" + reason + ".service", `[Unit]
Description=Tell banger why the machine ends (` + reason + `)
DefaultDependencies=no
Before=shutdown.target umount.target final.target
[Service]
Type=oneshot
TimeoutStartSec=5
ExecStart=-/run/banger/agent notify ` + reason + `
`}
}

// systemdLinks hang the units above into the boot, and mask what would wait for
// a network manager's word on eth0, or talk to a console that nobody sits at.
var systemdLinks = map[string]string{
	"sysinit.target.wants/banger-ready-default.service":     "../banger-ready-default.service",
	"default.target.wants/banger-ready-system.service":      "../banger-ready-system.service",
	"poweroff.target.wants/banger-goodbye-poweroff.service": "../banger-goodbye-poweroff.service",
	"reboot.target.wants/banger-goodbye-reboot.service":     "../banger-goodbye-reboot.service",
	"halt.target.wants/banger-goodbye-halt.service":         "../banger-goodbye-halt.service",

	"systemd-networkd-wait-online.service": "/dev/null",
	"NetworkManager-wait-online.service":   "/dev/null",
	"ifupdown-wait-online.service":         "/dev/null",
	"ifup@eth0.service":                    "/dev/null",
	"dhcpcd.service":                       "/dev/null",
	"dhcpcd@eth0.service":                  "/dev/null",
	"systemd-firstboot.service":            "/dev/null",
	"serial-getty@ttyS0.service":           "/dev/null",
	"getty@tty1.service":                   "/dev/null",
}

// writeRuntime prepares /run and /dev for the image's init.
func writeRuntime(kind initKind) error {
	linkDevices()
	raiseLoopback()
	if err := writeFiles(commonFiles); err != nil {
		return err
	}
	if err := writeFiles([]runtimeFile{{"/run/banger/init", string(kind) + "\n"}}); err != nil {
		return err
	}
	if err := offerKVM(kvmModule()); err != nil {
		return err
	}
	if kind != initSystemd {
		return serveModuleRequests()
	}
	if err := writeFiles(systemdFiles); err != nil {
		return err
	}
	return writeLinks("/run/systemd/system/", systemdLinks)
}

func writeFiles(files []runtimeFile) error {
	for _, f := range files {
		if err := os.MkdirAll(parent(f.path), 0o755); err != nil {
			return cannot("prepare /run", err)
		}
		if err := os.WriteFile(f.path, []byte(f.text), 0o644); err != nil {
			return cannot("prepare /run", err)
		}
	}
	return nil
}

func writeLinks(dir string, links map[string]string) error {
	for name, to := range links {
		if err := os.MkdirAll(parent(dir+name), 0o755); err != nil {
			return cannot("prepare /run", err)
		}
		if err := unix.Symlink(to, dir+name); err != nil {
			return cannot("prepare /run", err)
		}
	}
	return nil
}

// parent gives the directory of an absolute path.
func parent(path string) string { return path[:len(path)-len(lastElement(path))-1] }
