//go:build vmtest

package fctest_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// TestFcqemuGuest boots guests on fcqemu, in a network namespace with a tap.
func TestFcqemuGuest(t *testing.T) {
	inNetns(t, func(t *testing.T, tap string) {
		bin := filepath.Join(t.TempDir(), "fcqemu")
		build := exec.Command("go", "build", "-o", bin, "github.com/banger-vm/banger/cmd/fcqemu")
		if output, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, output)
		}
		target := realKernel(t, bin)
		target.Tap = tap
		target.Lacks = []string{"action_type", "path_on_host"}
		fctest.RunGuest(t, target)
	})
}
