package vm

import (
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/disk"
)

func TestReserveIsATenthOfASmallDiskAndOneGiBOfALargeOne(t *testing.T) {
	for _, tt := range []struct{ total, want int64 }{{1 << 30, 1 << 30 / 10}, {1 << 40, 1 << 30}} {
		if got := reserve(disk.Space{Total: tt.total}); got != tt.want {
			t.Errorf("reserve of %d bytes = %d, want %d", tt.total, got, tt.want)
		}
	}
}

// However fast the guests write, the next look comes before the reserve is
// used up by more than what the shortest pause lets through.
func TestLookAgainBeforeTheReserveIsTouched(t *testing.T) {
	for _, free := range []int64{0, 1 << 30, 2 << 30, 3 << 30, 20 << 30, 500 << 30} {
		s := disk.Space{Free: free, Total: 1 << 40}
		wait := lookAgain(s)
		if wait < lookSoon || wait > lookSeldom {
			t.Errorf("with %d bytes free: %v is out of bounds", free, wait)
		}
		written := int64(wait/time.Millisecond) * fastest / 1000
		if wait > lookSoon && free-written < reserve(s) {
			t.Errorf("with %d bytes free: after %v the guests can be below the reserve", free, wait)
		}
	}
}

func TestADiskWithRoomIsSeldomLookedAt(t *testing.T) {
	for free := int64(12 << 30); free <= 1<<52; free += free / 7 {
		if wait := lookAgain(disk.Space{Free: free, Total: 1 << 53}); wait != lookSeldom {
			t.Fatalf("with %d bytes free it is looked at after %v, not after %v", free, wait, lookSeldom)
		}
	}
}
