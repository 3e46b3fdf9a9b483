//go:build nested && soak

package nested

import (
	"testing"
	"time"
)

// Each operation is a suite of its own, so that little is said again when the
// emulated machine dies.
var walks = []suite{
	{name: "create", pkg: "./test/e2e", tags: "e2e,soak", args: walk("create"), timeout: 30 * time.Minute},
	{name: "start", pkg: "./test/e2e", tags: "e2e,soak", args: walk("start"), timeout: 30 * time.Minute},
	{name: "stop", pkg: "./test/e2e", tags: "e2e,soak", args: walk("stop"), timeout: 30 * time.Minute},
	{name: "delete", pkg: "./test/e2e", tags: "e2e,soak", args: walk("delete"), timeout: 30 * time.Minute},
	{name: "pause", pkg: "./test/e2e", tags: "e2e,soak", args: walk("pause"), timeout: 30 * time.Minute},
}

func walk(operation string) []string {
	return []string{"-test.run=^TestKillAtEveryStep$/^" + operation + "$"}
}

// bangerd dies at every step there is, with guests of the real firecracker.
func TestKillAtEveryStep(t *testing.T) { inside(t, walks) }
