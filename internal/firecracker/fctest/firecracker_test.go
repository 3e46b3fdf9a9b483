//go:build firecracker

package fctest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

// These tests run on the Firecracker that FIRECRACKER_BIN names. The API is
// served on any host; guests need a /dev/kvm that works.

func realFirecracker(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(os.Getenv("FIRECRACKER_BIN"))
	if err != nil || os.Getenv("FIRECRACKER_BIN") == "" {
		t.Fatalf("FIRECRACKER_BIN does not name a firecracker binary (%v)", err)
	}
	return bin
}

func TestFirecrackerAPI(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: realFirecracker(t)})
}

func TestFirecrackerGuest(t *testing.T) {
	inNetns(t, func(t *testing.T, tap string) {
		target := realKernel(t, realFirecracker(t))
		target.Tap = tap
		fctest.RunGuest(t, target)
	})
}
