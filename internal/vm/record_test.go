package vm

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

func valid() Record {
	return Record{Format: recordFormat, ID: "0123abcd", Name: "box", State: api.StateStopped, Provisioned: true}
}

func TestParseRecord(t *testing.T) {
	good, err := json.Marshal(valid())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := parseRecord(good, "0123abcd"); err != nil || r.Name != "box" {
		t.Errorf("a good record: %v, %v", r, err)
	}
	newer, odd := valid(), valid()
	newer.Format++
	odd.State = "dancing"
	bad := map[string][]byte{
		"empty":         {},
		"cut off":       good[:len(good)/2],
		"newer":         must(t, newer),
		"unknown state": must(t, odd),
	}
	for name, data := range bad {
		if _, err := parseRecord(data, "0123abcd"); err == nil {
			t.Errorf("a record that is %s was taken", name)
		}
	}
	if _, err := parseRecord(good, "deadbeef"); err == nil {
		t.Error("another VM's record was taken")
	}
}

func must(t *testing.T, r Record) []byte {
	t.Helper()
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadRecordOfAnEmptyDirectory(t *testing.T) {
	if _, err := readRecord(t.TempDir()); !errors.Is(err, errNoRecord) {
		t.Errorf("err = %v, want errNoRecord", err)
	}
}

func TestReadRecordRefusesALink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/hostname", recordPath(dir)); err != nil {
		t.Fatal(err)
	}
	if _, err := readRecord(dir); err == nil || errors.Is(err, errUnread) {
		t.Errorf("a link was followed, or taken for what passes: %v", err)
	}
}

// A record that the host does not give out is not one that can't be trusted: its
// VM's directory stays where it is.
func TestARecordThatTheHostDoesNotGiveOut(t *testing.T) {
	m := New(Options{StateDir: t.TempDir(), RuntimeDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	r := valid()
	writeFiles(t, m.dir(r.ID), "vm.json", "disk.cow")
	if err := m.save(r); err != nil {
		t.Fatal(err)
	}
	givenOut := noFilesLeft(t)
	v, err := m.read(r.ID)
	givenOut()
	if v != nil || !errors.Is(err, errUnread) || !errors.Is(err, unix.EMFILE) {
		t.Errorf("VM %v, error %v", v, err)
	}
	if v, err = m.read(r.ID); err != nil || v == nil {
		t.Errorf("afterwards: VM %v, error %v", v, err)
	}
}

// noFilesLeft has this process open no file until given is called.
func noFilesLeft(t *testing.T) (given func()) {
	t.Helper()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
	}
}

// What is in the record's place and is no file says nothing that would pass.
func TestReadRecordRefusesASocket(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "vm") // short: socket paths end at 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", recordPath(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := readRecord(dir); err == nil || errors.Is(err, errUnread) {
		t.Errorf("err = %v", err)
	}
}
