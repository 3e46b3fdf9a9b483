//go:build hosttest

package fctest_test

import (
	"testing"

	"github.com/banger-vm/banger/internal/firecracker/fctest"
)

func TestMemoryTap(t *testing.T) {
	inNetns(t, func(t *testing.T, tap string) {
		fctest.RunGuest(t, fctest.Target{Bin: buildFcmem(t), Memory: true, Tap: tap})
	})
}
