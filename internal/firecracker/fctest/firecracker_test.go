//go:build firecracker

package fctest_test

import (
	"os"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// These tests run on the Firecracker that FIRECRACKER_BIN names. The API is
// served on any host; guests need a /dev/kvm that works.

func realFirecracker(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("FIRECRACKER_BIN")
	if bin == "" {
		t.Fatal("FIRECRACKER_BIN does not name a firecracker binary")
	}
	return bin
}

func TestFirecrackerAPI(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: realFirecracker(t)})
}
