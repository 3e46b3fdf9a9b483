package vm

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
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
