package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// runSSH runs the host's ssh in the guest: a shell, or args as ssh takes them.
// Every byte goes through the daemon; the network is not used.
func (d *deps) runSSH(ctx context.Context, vm api.VM, terminal string, args []string) error {
	if terminal == "" {
		return d.runSSHWith(ctx, vm, nil, args)
	}
	return d.runSSHWith(ctx, vm, []string{terminal}, args)
}

// runSSHWith is runSSH with options of ssh's own.
func (d *deps) runSSHWith(ctx context.Context, vm api.VM, options, args []string) error {
	info, err := d.client.SSHInfo(ctx, vm.ID)
	if err != nil {
		return err
	}
	known, err := knownHosts(vm, info)
	if err != nil {
		return err
	}
	defer known.Close()
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		return &api.Error{Kind: api.KindHost, Message: "the program ssh is not installed",
			Hint: "install it (Debian: openssh-client), or run commands with `banger vm exec " + vm.Name + " -- …`"}
	}
	command := exec.Command(ssh, append(d.sshArgs(vm, info, known, options), args...)...)
	command.Stdin, command.Stdout, command.Stderr = d.in, d.out, d.errs
	if err := command.Start(); err != nil {
		return fmt.Errorf("cannot start ssh: %w", err)
	}
	// The terminal sends its signals to ssh itself.
	defer d.interrupts.divert(func(s syscall.Signal) {
		if s == syscall.SIGTERM || s == syscall.SIGHUP {
			_ = command.Process.Signal(s)
		}
	})()
	return sshStatus(command.Wait())
}

// sshStatus is the status of the guest's shell, or ssh's own 255.
func sshStatus(err error) error {
	var exited *exec.ExitError
	if !errors.As(err, &exited) {
		return err
	}
	if ws, ok := exited.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return exitStatus(128 + int(ws.Signal()))
	}
	return exitStatus(exited.ExitCode())
}

// knownHosts is a file in memory with the guest's host keys, which the daemon
// has made: so ssh never trusts on first use, and nothing is left behind.
func knownHosts(vm api.VM, info api.SSHInfo) (*os.File, error) {
	fd, err := unix.MemfdCreate("known_hosts", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("cannot make the list of known hosts: %w", err)
	}
	file := os.NewFile(uintptr(fd), "known_hosts")
	for _, key := range info.HostKeys {
		if _, err := fmt.Fprintf(file, "%s %s\n", hostName(vm), key); err != nil {
			file.Close()
			return nil, fmt.Errorf("cannot write the list of known hosts: %w", err)
		}
	}
	return file, nil
}

// hostName is what ssh calls the guest: no real host has such a name.
func hostName(vm api.VM) string { return vm.ID + ".banger" }

// sshArgs makes ssh depend on nothing of the user's own settings, which are
// written for real hosts. Options come first: of two that are the same ssh takes
// the first.
func (d *deps) sshArgs(vm api.VM, info api.SSHInfo, known *os.File, options []string) []string {
	args := append([]string{"-F", "/dev/null"}, options...)
	args = append(args, "-i", info.KeyPath, "-l", info.User)
	for _, option := range []string{
		"ProxyCommand=" + strings.ReplaceAll(quote(d.self), "%", "%%") + " vm ssh-proxy " + vm.ID,
		fmt.Sprintf("UserKnownHostsFile=/proc/%d/fd/%d", os.Getpid(), known.Fd()),
		"GlobalKnownHostsFile=/dev/null",
		"StrictHostKeyChecking=yes",
		"UpdateHostKeys=no",
		"IdentitiesOnly=yes",
		"PasswordAuthentication=no",
		"KbdInteractiveAuthentication=no",
		"LogLevel=ERROR",
	} {
		args = append(args, "-o", option)
	}
	return append(args, hostName(vm))
}

// quote makes one word of s for a POSIX shell.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// remoteCommand is a command as ssh sends it: one word is a line for the
// guest's shell, several are kept apart.
func remoteCommand(argv []string) []string {
	if len(argv) < 2 {
		return argv
	}
	words := make([]string, len(argv))
	for i, word := range argv {
		words[i] = quote(word)
	}
	return []string{strings.Join(words, " ")}
}
