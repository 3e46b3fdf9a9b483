package fcqemu

import (
	"fmt"
	"strconv"
	"strings"
)

// processor is what runs the guest's code.
type processor struct {
	kvm bool
	// tscKHz is the measured rate of the time-stamp counter, without KVM.
	tscKHz uint64
}

// kernelArgs are appended to the guest's command line, which is cmdline.
//
// reboot=t: the kernel resets by a triple fault. QEMU's microvm has no
// keyboard controller, at which reboot=k tries for a second or two first.
// pci=off is what Firecracker appends. In software the kernel has no clock of
// a hypervisor, so it must know the counter's rate and rely on it: guessing
// hangs one boot in twelve, and a counter called unstable leaves it with
// jiffies. Where cmdline tells how often the kernel's clock ticks, lpj= says how
// long its delay loop is: a processor that measures it takes the time of 15 ticks
// and more.
func kernelArgs(p processor, cmdline string) []string {
	args := []string{"reboot=t", "pci=off"}
	if !p.kvm {
		args = append(args, fmt.Sprintf("tsc_early_khz=%d", p.tscKHz), "tsc=reliable")
		if hz := ticks(cmdline); hz > 0 {
			args = append(args, fmt.Sprintf("lpj=%d", p.tscKHz*1000/hz))
		}
	}
	return args
}

// ticks gives the kernel's CONFIG_HZ as the word fcqemu.hz= on its command line
// tells it, 0 when there is none that can be right. The kernel itself ignores
// the word.
func ticks(cmdline string) uint64 {
	for word := range strings.SplitSeq(cmdline, " ") {
		if value, ok := strings.CutPrefix(word, "fcqemu.hz="); ok {
			if hz, err := strconv.ParseUint(value, 10, 64); err == nil && hz <= maxTicks {
				return hz
			}
		}
	}
	return 0
}

// maxTicks is the largest CONFIG_HZ of any architecture (kernel/Kconfig.hz of
// x86 and the others).
const maxTicks = 1200

// cmdline is the whole command line of a guest whose boot arguments are cmdline.
func (p processor) cmdline(cmdline string) string {
	return withKernelArgs(cmdline, kernelArgs(p, cmdline))
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
