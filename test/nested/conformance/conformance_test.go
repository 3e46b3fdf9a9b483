//go:build nested

// Package conformance runs the suite that every VMM passes on the firecracker
// that FIRECRACKER_BIN names. It is a program of its own because it runs where
// there is no Go.
package conformance

import (
	"os"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

func TestConformance(t *testing.T) {
	fctest.Run(t, fctest.Target{Bin: os.Getenv("FIRECRACKER_BIN")})
}
