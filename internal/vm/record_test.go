package vm

import (
	"encoding/json"
	"errors"
	"os"
	"testing"

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
	if _, err := readRecord(dir); err == nil {
		t.Error("a link was followed")
	}
}
