// Command banger-vsock-agent is banger's agent in a guest; banger-init starts
// it. The program is internal/guest/agent.
package main

import (
	"os"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/agent"
)

func main() { os.Exit(agent.Main(os.Args[1:], api.Version)) }
