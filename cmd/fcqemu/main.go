// Command fcqemu is a VMM with Firecracker's command line and API that runs
// its guest on QEMU: with KVM where KVM works, else in software.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/fcqemu"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// The main goroutine stays on the main thread, which is what QEMU's life is
// tied to.
func init() { runtime.LockOSThread() }

func main() {
	os.Exit(fcqemu.OnMainThread(func(spawn fcqemu.Spawn) int {
		return run(os.Args[1:], fcqemu.New(spawn))
	}))
}

func run(args []string, machine *fcqemu.Machine) int {
	status := fcserver.Main("fcqemu", args, machine)
	if slices.Contains(args, "--version") {
		fmt.Printf("fcqemu %s on %s\n", api.Version, fcqemu.Version(context.Background()))
	}
	return status
}
