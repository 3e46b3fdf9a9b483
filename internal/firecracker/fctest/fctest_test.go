package fctest_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// buildFcmem builds the program of the in-memory VMM.
func buildFcmem(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "fcmem")
	if output, err := exec.Command("go", "build", "-o", bin, "./fcmem").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	return bin
}

func TestMemory(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: buildFcmem(t), Memory: true})
}

func TestMemoryGuest(t *testing.T) {
	fctest.RunGuest(t, fctest.Target{Bin: buildFcmem(t), Memory: true})
}
