package dmsnapshot

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// kernel does what drivers/md/dm-snap-persistent.c does to hand out chunks, and
// says which chunks of the device it touched last.
type kernel struct {
	chunks    int64 // of the device
	perArea   int64
	nextFree  int64
	area      int64
	committed int64
	used      map[int64]bool
}

func newKernel(device, chunk int64) *kernel {
	return &kernel{
		chunks:   device / chunk,
		perArea:  chunk / exceptionSize,
		nextFree: headerChunks + 1,
		used:     map[int64]bool{0: true, 1: true},
	}
}

// areaLocation is area_location().
func (k *kernel) areaLocation(area int64) int64 { return headerChunks + (k.perArea+1)*area }

// write is persistent_prepare_exception(), then persistent_commit_exception().
func (k *kernel) write() error {
	if k.chunks < k.nextFree+1 {
		return errors.New("ENOSPC from prepare_exception")
	}
	if k.used[k.nextFree] {
		return errors.New("a chunk was handed out twice")
	}
	k.used[k.nextFree] = true
	k.nextFree++
	if k.nextFree%(k.perArea+1) == headerChunks { // skip_metadata()
		k.nextFree++
	}
	k.committed++
	if k.committed == k.perArea {
		return k.nextArea()
	}
	return nil
}

// nextArea is zero_disk_area(current_area + 1): out of the device it makes the
// snapshot invalid.
func (k *kernel) nextArea() error {
	k.area++
	k.committed = 0
	at := k.areaLocation(k.area)
	if at >= k.chunks {
		return errors.New("the next area lies behind the device")
	}
	if k.used[at] {
		return errors.New("an area lies on data")
	}
	k.used[at] = true
	return nil
}

func TestEveryChunkOfTheDiskCanBeWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunk := int64(SectorSize) << rapid.IntRange(0, 5).Draw(t, "chunk shift")
		virtual := rapid.Int64Range(1, 3000*chunk).Draw(t, "virtual size")
		k := newKernel(DeviceSize(virtual, chunk), chunk)
		for i := int64(0); i < (virtual+chunk-1)/chunk; i++ {
			if err := k.write(); err != nil {
				t.Fatalf("write %d: %v", i, err)
			}
		}
		if spare := k.chunks - int64(len(k.used)); spare != 0 {
			t.Fatalf("%d chunks of %d can never be used", spare, k.chunks)
		}
	})
}

func TestDeviceSizeAtTheEdgeOfAnArea(t *testing.T) {
	const chunk = 512 // 32 exceptions in an area
	for virtual, chunks := range map[int64]int64{
		31 * chunk: 1 + 1 + 31,
		32 * chunk: 1 + 2 + 32, // the kernel prepares an area that no data follows
		33 * chunk: 1 + 2 + 33,
	} {
		if got := DeviceSize(virtual, chunk); got != chunks*chunk {
			t.Errorf("DeviceSize(%d chunks) = %d chunks, want %d", virtual/chunk, got/chunk, chunks)
		}
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	want := Header{Valid: true, ChunkSectors: 32}
	got, err := ParseHeader(want.Bytes())
	if err != nil || got != want {
		t.Fatalf("ParseHeader = %+v, %v, want %+v", got, err, want)
	}
}

func TestParseHeader(t *testing.T) {
	good := Header{Valid: false, ChunkSectors: 32}.Bytes()
	with := func(at int, value byte) []byte {
		b := append([]byte(nil), good...)
		b[at] = value
		return b
	}
	if h, err := ParseHeader(good); err != nil || h.Valid {
		t.Errorf("an invalidated header gives %+v, %v", h, err)
	}
	if _, err := ParseHeader(make([]byte, HeaderSize)); !errors.Is(err, ErrNew) {
		t.Errorf("zeros give %v, want ErrNew", err)
	}
	for name, bad := range map[string][]byte{
		"short":          good[:15],
		"foreign magic":  with(0, 'X'),
		"version 2":      with(8, 2),
		"odd chunk size": with(12, 33),
		"no chunk size":  with(12, 0),
	} {
		if _, err := ParseHeader(bad); err == nil || errors.Is(err, ErrNew) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
