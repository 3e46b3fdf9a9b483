package fcqemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/banger-vm/banger/internal/vmm"
)

// programs are where QEMU may be, best first. Neither PATH nor any other
// setting of a user's is asked. The last two are Red Hat's and Arch's.
var programs = []string{
	"/usr/bin/qemu-system-x86_64",
	"/usr/local/bin/qemu-system-x86_64",
	"/usr/libexec/qemu-kvm",
	"/usr/sbin/qemu-system-x86_64",
}

// program is the first of the candidates that can be executed.
func program(candidates []string) (string, error) {
	for _, path := range candidates {
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("cannot find QEMU; install qemu-system-x86 (looked for %s)", strings.Join(candidates, ", "))
}

// accelerated says whether KVM can run the guest: the rule is package vmm's,
// which chose this program by it.
func accelerated() bool {
	asked := vmm.Host{LookPath: func(name string) (string, error) { return name, nil }}
	choice, err := vmm.Choose(vmm.Options{Want: vmm.FCQEMU, Host: asked})
	return err == nil && choice.Accelerated
}

// Version is the first line of what QEMU says of itself, or why it cannot be
// asked.
func Version(ctx context.Context) string {
	path, err := program(programs)
	if err != nil {
		return err.Error()
	}
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = []string{}
	out, err := cmd.Output()
	if err != nil {
		return fmt.Sprintf("cannot run %s: %v", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line
}
