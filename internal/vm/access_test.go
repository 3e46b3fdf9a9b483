package vm

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/network"
)

// newBox is a VM called box whose record says that it runs.
func newBox(t *testing.T) *machine {
	t.Helper()
	m := New(Options{StateDir: t.TempDir()})
	rec := Record{ID: "0badcafe", Name: "box", State: api.StateRunning}
	if err := os.Mkdir(m.dir(rec.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	v := m.newMachine(rec)
	m.vms[rec.ID] = v
	return v
}

// A range that was full is as large elsewhere: a VM's own place counts as free
// for it.
func TestALeaseMovesToAnotherRange(t *testing.T) {
	v := newBox(t)
	old := network.Config{Bridge: "b0", Addr: netip.MustParsePrefix("10.5.0.1/30"), UIDBase: os.Getuid()}
	lease, err := old.Pick(nil)
	if err != nil {
		t.Fatal(err)
	}
	v.rec.Lease = lease
	v.m.Pool = old
	v.m.Pool.Addr = netip.MustParsePrefix("10.6.0.1/30")
	if err := os.WriteFile(v.disk(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.renewLease(); err != nil || v.record().Lease.Addr.String() != "10.6.0.2/30" {
		t.Errorf("%v, and its place is %v", err, v.record().Lease.Addr)
	}
}

// The guest's log is a hint for what the guest can't do, not for what it was
// asked in vain.
func TestRefusalsOfAGuest(t *testing.T) {
	v := newBox(t)
	for _, tt := range []struct {
		made func(error) error
		kind proto.ErrorKind
		want api.Error
	}{
		{v.guestError, proto.ErrorFailed, api.Error{Kind: api.KindGuest, Message: "VM box: no", Hint: "banger vm logs box shows what it said"}},
		{v.guestError, proto.ErrorBadRequest, api.Error{Kind: api.KindBadRequest, Message: "VM box: no"}},
		{v.copyError, proto.ErrorFailed, api.Error{Kind: api.KindBadRequest, Message: "VM box: no"}},
	} {
		var told *api.Error
		if err := tt.made(&proto.Error{Kind: tt.kind, Message: "no"}); !errors.As(err, &told) || *told != tt.want {
			t.Errorf("of %s is made %#v, not %#v", tt.kind, told, tt.want)
		}
	}
}

// A VM can be recorded as running that has no VMM any more: its end could not be
// written down.
func TestReachAVMWhoseVMMIsGone(t *testing.T) {
	m := newBox(t).m
	_, _, err := m.reachable(t.Context(), "box", api.WaitAgent)
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindWrongState || told.Message != "VM box ended" {
		t.Errorf("got %v", err)
	}
}

// A VM that is deleted while somebody waits for it can't be looked at any more.
func TestReachAVMThatIsDeletedMeanwhile(t *testing.T) {
	v := newBox(t)
	v.rec.State = api.StateDeleting
	want := api.Error{Kind: api.KindNotFound, Message: "VM box was deleted", Hint: "banger vm list shows the VMs there are"}
	var told *api.Error
	if err := v.hasEnded(); !errors.As(err, &told) || *told != want {
		t.Errorf("got %v", err)
	}
	if err := require(v.record(), "start", api.StateStopped); !errors.As(err, &told) || strings.Contains(told.Hint, "vm show") {
		t.Errorf("its start is refused with %#v", err)
	}
}

// Who deletes a VM again is told of one with which nothing goes on.
func TestADeletedVMIsAtNoStep(t *testing.T) {
	v := newBox(t)
	v.rec.State = api.StateDeleting
	v.setStep("delete.directory")
	v.m.forget(v.describe())
	if was, ok := v.m.deletedVM("box"); !ok || was.Step != "" {
		t.Errorf("%v, at the step %q", ok, was.Step)
	}
}
