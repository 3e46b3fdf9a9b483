package fcqemu

import (
	"context"

	"github.com/banger-vm/banger/internal/firecracker"
)

const (
	mib      = 1 << 20
	pageSize = 4 << 10
	// balloonPath is the device's in QEMU's object tree.
	balloonPath = "/machine/peripheral/" + balloonID
	// unknown is what QEMU gives for a number that the guest does not tell.
	unknown = -1
)

// balloon is the memory that the guest was asked to give back.
type balloon struct {
	memory int64 // the guest's, in bytes
	target uint32
}

// set asks the guest to give back so many MiB. QEMU counts what the guest
// keeps.
func (b *balloon) set(ctx context.Context, q *qemu, amount uint32) error {
	keep := b.memory - int64(amount)*mib
	if err := q.control.Do(ctx, "balloon", map[string]any{"value": keep}, nil); err != nil {
		return err
	}
	b.target = amount
	return nil
}

func (b *balloon) pollStats(ctx context.Context, q *qemu, seconds uint16) error {
	return q.control.Do(ctx, "qom-set", map[string]any{
		"path": balloonPath, "property": "guest-stats-polling-interval", "value": seconds,
	}, nil)
}

func (b *balloon) stats(ctx context.Context, q *qemu) (firecracker.BalloonStats, error) {
	var kept struct {
		Actual int64 `json:"actual"`
	}
	if err := q.control.Do(ctx, "query-balloon", nil, &kept); err != nil {
		return firecracker.BalloonStats{}, err
	}
	var told struct {
		Stats map[string]int64 `json:"stats"`
	}
	get := map[string]any{"path": balloonPath, "property": "guest-stats"}
	if err := q.control.Do(ctx, "qom-get", get, &told); err != nil {
		return firecracker.BalloonStats{}, err
	}
	given := b.memory - kept.Actual
	number := func(name string) *uint64 {
		v, ok := told.Stats[name]
		if !ok || v == unknown {
			return nil
		}
		n := uint64(v)
		return &n
	}
	return firecracker.BalloonStats{
		TargetPages: b.target * (mib / pageSize), ActualPages: uint32(given / pageSize),
		TargetMiB: b.target, ActualMiB: uint32(given / mib),
		SwapIn: number("stat-swap-in"), SwapOut: number("stat-swap-out"),
		MajorFaults: number("stat-major-faults"), MinorFaults: number("stat-minor-faults"),
		FreeMemory: number("stat-free-memory"), TotalMemory: number("stat-total-memory"),
		AvailableMemory: number("stat-available-memory"), DiskCaches: number("stat-disk-caches"),
		HugetlbAllocations: number("stat-htlb-pgalloc"), HugetlbFailures: number("stat-htlb-pgfail"),
	}, nil
}
