package vm

import (
	"errors"
	"os"
	"testing"

	"github.com/banger-vm/banger/api"
)

// A VM can be recorded as running that has no VMM any more: its end could not be
// written down.
func TestReachAVMWhoseVMMIsGone(t *testing.T) {
	m := New(Options{StateDir: t.TempDir()})
	rec := Record{ID: "0badcafe", Name: "box", State: api.StateRunning}
	if err := os.Mkdir(m.dir(rec.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	v, err := m.newMachine(rec)
	if err != nil {
		t.Fatal(err)
	}
	m.vms[rec.ID] = v
	_, _, err = m.reachable(t.Context(), "box", api.WaitAgent)
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindWrongState || told.Message != "VM box ended" {
		t.Errorf("got %v", err)
	}
}
