package vm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/proc"
)

// What is there of a VM without a record is removed, unless it has a disk: that
// is no create that never began, and no delete that never ended.
func TestADirectoryWithoutARecord(t *testing.T) {
	for _, tt := range []struct {
		files []string
		kept  bool
	}{
		{nil, false},
		{[]string{"log.ndjson", "host_key", ".vm.json123"}, false},
		{[]string{"log.ndjson", "disk.cow"}, true},
		{[]string{"disk.raw"}, true},
	} {
		m := New(Options{StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		const id = "0badcafe"
		writeFiles(t, m.dir(id), tt.files...)
		v, err := m.read(id)
		if v != nil || errors.Is(err, errNoRecord) != tt.kept {
			t.Errorf("%q: VM %v, error %v", tt.files, v, err)
		}
		if _, err := os.Stat(m.dir(id)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%q: it is there: %v", tt.files, err)
		}
		var kept []string
		aside, _ := filepath.Glob(m.dir(id) + ".set-aside-*/*")
		for _, path := range aside {
			kept = append(kept, filepath.Base(path))
		}
		want := slices.Sorted(slices.Values(tt.files))
		if !tt.kept {
			want = nil
		}
		if !slices.Equal(kept, want) {
			t.Errorf("%q: set aside %q", tt.files, kept)
		}
	}
}

// A VMM that could not be looked at, for now or because this daemon is told to end, is
// not one that is gone.
func TestAVMMThatCannotBeLookedAt(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vm") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	v := newBox(t)
	v.m.RuntimeDir = dir
	self, err := proc.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	v.rec.VMM = &VMM{Identity: self}
	if f, err := v.look(t.Context()); err != nil || f.alive {
		t.Errorf("with no API it is alive: %v, %v", f.alive, err)
	}
	writeFiles(t, v.m.runDir(v.rec.ID))
	l, err := net.Listen("unix", filepath.Join(v.m.runDir(v.rec.ID), firecracker.APISocket))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	over, end := context.WithCancel(t.Context())
	end()
	if _, err := v.look(over); !errors.Is(err, context.Canceled) {
		t.Errorf("a daemon that is to end gets %v", err)
	}
	givenOut := noFilesLeft(t)
	_, err = v.look(t.Context())
	givenOut()
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("one that can open no file gets %v", err)
	}
	f, err := v.look(t.Context())
	if err != nil || !f.alive {
		t.Fatalf("alive: %v, %v", f.alive, err)
	}
	f.process.Release()
}

func writeFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A delete that dies half-way leaves no disk without a record.
func TestAVMsDiskGoesBeforeItsRecord(t *testing.T) {
	for _, disk := range []string{"disk.cow", "disk.raw"} {
		v := newBox(t)
		writeFiles(t, v.dir, disk, "vm.json")
		gone := removals(t, v.dir)
		if err := v.removeDir(); err != nil {
			t.Fatal(err)
		}
		if names := gone(); slices.Index(names, disk) < 0 || slices.Index(names, disk) > slices.Index(names, "vm.json") {
			t.Errorf("removed in this order: %q", names)
		}
	}
}

// removals gives what will have been removed from a directory, in order.
func removals(t *testing.T, dir string) func() []string {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_DELETE|unix.IN_ONLYDIR); err != nil {
		t.Fatal(err)
	}
	return func() (names []string) {
		events := make([]byte, 64<<10)
		n, err := unix.Read(fd, events)
		if err != nil {
			t.Fatal(err)
		}
		for events = events[:n]; len(events) >= unix.SizeofInotifyEvent; {
			// The length of the name is the last field before it.
			length := int(events[12]) | int(events[13])<<8
			name := events[unix.SizeofInotifyEvent:][:length]
			names = append(names, string(bytes.TrimRight(name, "\x00")))
			events = events[unix.SizeofInotifyEvent+length:]
		}
		return names
	}
}
