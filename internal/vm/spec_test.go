package vm

import (
	"errors"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/image"
)

var defaults = Defaults{Image: "debian-bookworm", Kernel: "generic-6.12", VCPUs: 2, MemoryMiB: 1024, DiskMiB: 20 << 10}

func TestResolveFillsGaps(t *testing.T) {
	name, spec, err := resolve(api.CreateRequest{Name: "box", VCPUs: 4}, defaults)
	if err != nil {
		t.Fatal(err)
	}
	want := Spec{Image: "debian-bookworm", VCPUs: 4, MemoryMiB: 1024, DiskMiB: 20 << 10}
	if name != "box" || spec != want {
		t.Errorf("resolve = %q, %+v; want box, %+v", name, spec, want)
	}
}

func TestResolveRefuses(t *testing.T) {
	bad := map[string]api.CreateRequest{
		"upper case":         {Name: "Box"},
		"dot":                {Name: "a.b"},
		"hyphen at the end":  {Name: "box-"},
		"too long":           {Name: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
		"escape":             {Name: "\x1b[31m"},
		"33 vCPUs":           {VCPUs: 33},
		"negative vCPUs":     {VCPUs: -1},
		"little memory":      {MemoryMiB: 64},
		"little disk":        {DiskMiB: 10},
		"a wait of no sense": {Wait: "forever"},
	}
	for name, req := range bad {
		_, _, err := resolve(req, defaults)
		var told *api.Error
		if !errors.As(err, &told) || told.Kind != api.KindBadRequest || told.Hint == "" {
			t.Errorf("%s: err = %v, want a bad request with a hint", name, err)
		}
	}
}

// Who asked for too much is told the most there is.
func TestTheHintNamesBothLimits(t *testing.T) {
	for hint, req := range map[string]api.CreateRequest{
		"use --memory 128M to 1024G": {MemoryMiB: maxMemoryMiB + 1},
		"use --disk 512M to 8192G":   {DiskMiB: maxDiskMiB + 1},
		"use 1 to 32":                {VCPUs: maxVCPUs + 1},
	} {
		_, _, err := resolve(req, defaults)
		var told *api.Error
		if !errors.As(err, &told) || told.Hint != hint {
			t.Errorf("got %#v, want the hint %q", err, hint)
		}
	}
}

func TestTheLargestDiskOverAnImage(t *testing.T) {
	const mib = 1 << 20
	for name, test := range map[string]struct {
		base image.Image
		want int64
	}{
		"it grows":                              {image.Image{Size: 600 * mib, MaxDisk: 8 << 40}, maxDiskMiB},
		"it grows to no whole MiB":              {image.Image{Size: 600 * mib, MaxDisk: 4<<40 - 1024}, 4<<20 - 1},
		"it does not grow":                      {image.Image{Size: 600 * mib, MaxDisk: 600 * mib}, 600},
		"it does not grow, and is no whole MiB": {image.Image{Size: 600*mib + 4096, MaxDisk: 600*mib + 4096}, 601},
		"it does not grow, and is small":        {image.Image{Size: 64 * mib, MaxDisk: 64 * mib}, minDiskMiB},
		"it says that it grows to less":         {image.Image{Size: 600 * mib, MaxDisk: 1}, 600},
	} {
		if got := largestDiskMiB(test.base); got != test.want {
			t.Errorf("%s: %d MiB; want %d", name, got, test.want)
		}
	}
}

func TestMadeUpNamesAreNamesAndFree(t *testing.T) {
	for range 200 {
		if name := madeUpName(func(string) bool { return false }); !nameForm.MatchString(name) {
			t.Fatalf("made-up name %q is no name", name)
		}
	}
	if name := madeUpName(func(string) bool { return true }); !nameForm.MatchString(name) {
		t.Errorf("made-up name %q is no name", name)
	}
}
