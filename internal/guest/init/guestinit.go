// Package guestinit is the first process of every guest. It runs out of
// banger's initramfs, puts the root disk together, starts the agent inside it
// and hands over to the image's own init, or stays PID 1 where the image has
// none.
//
// # What it finds
//
// The initramfs holds /init (this program), /agent, /modules/*.ko and
// /modules/order (see [parseOrder]). The kernel's command line names the
// drives (see [parseCmdline]): the read-only base, the copy-on-write file and
// the read-only tree of /lib/modules.
//
// # What it leaves
//
// In the image's root, before any other program runs there: /dev, /proc, /sys,
// /sys/fs/cgroup (cgroup v2), /dev/pts, /dev/shm and /run mounted, the loopback
// interface up, /lib/modules from the kernel's own drive, /run/banger/agent,
// runtime configuration that keeps the image's network managers away from
// eth0, and the agent running: argv[0] "@banger-agent", its standard output in
// /run/banger/agent.log, oom_score_adj -1000 (its children inherit that: it
// gives them 0). The host has given the guest its identity, unless it did not
// within two seconds.
//
// # How to ask PID 1 to end the machine
//
// Which way is right depends on the init that took over:
//
//   - systemd: SIGRTMIN+4 powers off, SIGRTMIN+5 reboots, SIGRTMIN+3 halts.
//   - this program: SIGUSR2, SIGUSR1 or SIGRTMIN+4 powers off; SIGTERM, SIGINT
//     or SIGRTMIN+5 reboots.
//   - busybox: SIGUSR2 powers off, SIGTERM reboots.
//   - OpenRC and sysvinit: run /sbin/poweroff or /sbin/reboot.
//
// /run/banger/init holds one word and a newline that says which it is:
// "systemd", "openrc", "busybox", "other" (sysvinit and its like) or "none"
// (this program).
//
// # Its size
//
// The program is loaded and started before anything else can happen, in
// software emulation too, so it keeps away from packages as large as fmt and
// net.
package guestinit

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/timerslack"
)

// newRoot is where the image's root is put together before it becomes /.
const newRoot = "/mnt"

// Main is the whole life of the guest's first process. It does not return.
func Main() {
	if len(os.Args) > 0 && os.Args[0] == modprobePath {
		if err := modprobe(os.Args[1:]); err != nil {
			mark(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getpid() != 1 {
		say("banger-init: cannot run outside of a guest: it must be the first process\n")
		os.Exit(1)
	}
	if err := boot(); err != nil {
		die(err)
	}
}

// boot goes from the bare kernel to the hand-over; it only returns when it
// failed.
func boot() error {
	if err := mountAll(firstMounts); err != nil {
		return err
	}
	mark("started")
	if err := timerslack.Relax(); err != nil {
		mark(cannot("let the timers be late", err).Error())
	}
	conf, err := readConfig()
	if err != nil {
		return err
	}
	modules, err := startModules("/modules")
	if err != nil {
		return err
	}
	root, err := openRoot(conf, modules)
	if err != nil {
		return err
	}
	if err := modules.waitFor("ext4.ko"); err != nil {
		return err
	}
	if err := mountRoot(root); err != nil {
		return err
	}
	mark("root mounted")
	if err := furnish(newRoot); err != nil {
		return err
	}
	if err := switchRoot(newRoot); err != nil {
		return err
	}
	if err := mountModules(conf.Modules); err != nil {
		return err
	}
	kind := findInit()
	if err := writeRuntime(kind); err != nil {
		return err
	}
	if err := modules.wait(); err != nil {
		return err
	}
	agent, err := startAgent()
	if err != nil {
		return err
	}
	mark("agent started")
	for _, err := range onlineProcessors("/sys/devices/system/cpu") {
		mark(err.Error())
	}
	agent.prefer()
	if err := settleRoot(); err != nil {
		return err
	}
	return handOver(kind, agent)
}

// handOver lets the image's init take the place of this process. An init that
// can't be executed is told about, and the machine lives on without.
func handOver(kind initKind, agent startedAgent) error {
	if kind == initNone {
		return stay(agent.pid)
	}
	agent.awaitIdentity()
	mark("handing over to " + initPath)
	err := timerslack.Punctual(func() error {
		return unix.Exec(initPath, append([]string{initPath}, os.Args[1:]...), os.Environ())
	})
	say("banger-init: cannot execute the image's " + initPath + ": " + err.Error() + "; going on without it\n")
	return stay(agent.pid)
}
