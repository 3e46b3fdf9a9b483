package fcqemu

import (
	"fmt"
	"strings"
)

// processor is what runs the guest's code.
type processor struct {
	kvm bool
	// tscKHz is the measured rate of the time-stamp counter, without KVM.
	tscKHz uint64
}

// kernelArgs are appended to the guest's command line.
//
// reboot=t: the kernel resets by a triple fault. QEMU's microvm has no
// keyboard controller, at which reboot=k tries for a second or two first.
// pci=off is what Firecracker appends. In software the kernel has no clock of
// a hypervisor, so it must know the counter's rate and rely on it: guessing
// hangs one boot in twelve, and a counter called unstable leaves it with
// jiffies.
func kernelArgs(p processor) []string {
	args := []string{"reboot=t", "pci=off"}
	if !p.kvm {
		args = append(args, fmt.Sprintf("tsc_early_khz=%d", p.tscKHz), "tsc=reliable")
	}
	return args
}

// withKernelArgs puts args at the end of the kernel's own part of cmdline:
// what follows a lone "--" is for the guest's first process.
func withKernelArgs(cmdline string, args []string) string {
	words := strings.Split(cmdline, " ")
	end := len(words)
	for i, word := range words {
		if word == "--" {
			end = i
			break
		}
	}
	all := append([]string{}, words[:end]...)
	all = append(all, args...)
	return strings.TrimSpace(strings.Join(append(all, words[end:]...), " "))
}
