package dmsnapshot

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

// deviceWith lays out a snapshot of chunks of 512 bytes as the kernel does,
// with the disk's chunks given written in this order.
func deviceWith(written []uint64) []byte {
	const chunk = 512
	k := newKernel(1<<30, chunk)
	device := make([]byte, (len(written)+3+len(written)/32*2)*chunk+chunk)
	copy(device, Header{Valid: true, ChunkSectors: 1}.Bytes())
	for i, onDisk := range written {
		at := k.areaLocation(int64(i)/k.perArea)*chunk + int64(i)%k.perArea*exceptionSize
		binary.LittleEndian.PutUint64(device[at:], onDisk)
		binary.LittleEndian.PutUint64(device[at+8:], uint64(k.nextFree))
		if err := k.write(); err != nil {
			panic(err)
		}
	}
	return device
}

func TestExceptionsAreThoseThatTheKernelWrote(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		written := rapid.SliceOfN(rapid.Uint64Range(0, 1<<20), 0, 200).Draw(t, "written")
		device := deviceWith(written)
		seen, places := []uint64{}, map[int64]bool{}
		chunk, err := Exceptions(bytes.NewReader(device), int64(len(device)), func(onDisk, inDevice int64) error {
			seen = append(seen, uint64(onDisk/512))
			if places[inDevice] || inDevice == 0 {
				t.Fatalf("two chunks lie at %d", inDevice)
			}
			places[inDevice] = true
			return nil
		})
		if err != nil || chunk != 512 || len(seen) != len(written) {
			t.Fatalf("%d of %d exceptions, chunks of %d, %v", len(seen), len(written), chunk, err)
		}
		for i := range seen {
			if seen[i] != written[i] {
				t.Fatalf("exception %d is of chunk %d, want %d", i, seen[i], written[i])
			}
		}
	})
}

func TestDamagedExceptions(t *testing.T) {
	for name, word := range map[string]uint64{"behind the device": 1 << 40, "the metadata": 34, "the first area": 1} {
		device := deviceWith([]uint64{1, 2, 3})
		binary.LittleEndian.PutUint64(device[512+8:], word)
		if _, err := Exceptions(bytes.NewReader(device), 1<<20, func(int64, int64) error { return nil }); err == nil {
			t.Errorf("%s: it passes", name)
		}
	}
}

func FuzzExceptions(f *testing.F) {
	f.Add(deviceWith([]uint64{1, 2, 3}))
	f.Fuzz(func(t *testing.T, device []byte) {
		_, _ = Exceptions(bytes.NewReader(device), int64(len(device)), func(onDisk, inDevice int64) error {
			if onDisk < 0 || inDevice < 0 || inDevice >= int64(len(device)) {
				t.Errorf("an exception leads from %d to %d", onDisk, inDevice)
			}
			return nil
		})
	})
}
