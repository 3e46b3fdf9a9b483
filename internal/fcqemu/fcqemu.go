// Package fcqemu runs one guest on QEMU for the Firecracker API: a
// [fcserver.Machine] over QEMU's microvm machine, with KVM where KVM works
// and in software (TCG) elsewhere.
//
// QEMU is made to behave as Firecracker does. A guest's reset ends the
// machine with status 0, and its poweroff does not end it. The serial port
// never makes the guest wait. The vsock is a virtio-serial port that carries
// multiplexed streams, since QEMU has no vsock of the kind. Disk errors are
// the guest's to see. What QEMU cannot do is refused, with the field's name.
//
// QEMU runs as the user that fcqemu already is, under its own seccomp filter,
// reads no configuration that a user could write, and gets the guest's files
// as open descriptors, never by name. Neither of the two processes survives
// the other: see [OnMainThread].
package fcqemu

import (
	"os/exec"
)

// Spawn starts a process from a thread that lives as long as this process.
type Spawn func(*exec.Cmd) error

// OnMainThread calls run on a goroutine of its own and serves its Spawn calls
// from the calling one, until run returns; it returns what run returns.
//
// The caller is the main goroutine, locked to the main thread since init.
// Linux kills a child with PDEATHSIG when the *thread* that forked it ends,
// and Go ends threads as it likes; only the main one lives until the process
// itself is gone, in whatever way that happens.
func OnMainThread(run func(Spawn) int) int {
	requests := make(chan func())
	status := make(chan int, 1)
	go func() {
		status <- run(func(cmd *exec.Cmd) error {
			started := make(chan error, 1)
			requests <- func() { started <- cmd.Start() }
			return <-started
		})
	}()
	for {
		select {
		case start := <-requests:
			start()
		case s := <-status:
			return s
		}
	}
}
