// Fcmem is a VMM with no machine: Firecracker's flags, API, sockets and exit
// codes over a guest that is a Go function. Tests run it where a VMM's program
// is asked for.
package main

import (
	"os"

	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

func main() { os.Exit(fcserver.Main("fcmem", os.Args[1:], &fctest.Memory{})) }
