//go:build nested && soak

package nested

import (
	"testing"
	"time"
)

// Each operation is a suite of its own, so that little is said again when the
// emulated machine dies.
var walks = []suite{
	{name: "create", pkg: "./test/e2e", tags: "e2e,soak", args: walk("create"), timeout: time.Hour},
	{name: "start", pkg: "./test/e2e", tags: "e2e,soak", args: walk("start"), timeout: time.Hour},
	{name: "stop", pkg: "./test/e2e", tags: "e2e,soak", args: walk("stop"), timeout: time.Hour},
	{name: "delete", pkg: "./test/e2e", tags: "e2e,soak", args: walk("delete"), timeout: time.Hour},
	{name: "pause", pkg: "./test/e2e", tags: "e2e,soak", args: walk("pause"), timeout: time.Hour},
}

func walk(operation string) []string {
	return []string{"-test.run=^TestKillAtEveryStep$/^" + operation + "_"}
}

// bangerd, its client and the VMM die at every step there is, with guests of the real firecracker.
func TestKillAtEveryStep(t *testing.T) { inside(t, walks) }
