package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/api"
)

// The list says why a VM failed, or waits; a reason of many lines or of any length
// stays on its row.
func TestListSaysWhy(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	vm := func(name string, state api.State, reason string) api.VM {
		return api.VM{Name: name, State: state, Reason: reason, Image: "tiny", VCPUs: 2, MemoryMiB: 2048, Created: now.Add(-time.Hour)}
	}
	var out strings.Builder
	err := vmsTable([]api.VM{
		vm("well", api.StateRunning, ""),
		vm("full", api.StatePaused, "the host's disk is almost full: 812 MiB are free, it runs on when 2048 MiB are"),
		vm("early", api.StateFailed, "the VMM of VM early ended with status 1 before its guest was ready:\nconsole: no init\nconsole: bye"),
		vm("long", api.StateFailed, strings.Repeat("x", 4000)),
	}, now).Write(&out)
	if err != nil {
		t.Fatal(err)
	}
	const want = `NAME   STATE    IMAGE  VCPUS  MEMORY   DISK USED  ADDRESS  AGE  REASON
well   running  tiny   2      2.0 GiB  0 B        -        60m  -
full   paused   tiny   2      2.0 GiB  0 B        -        60m  the host's disk is almost full: 812 MiB are free, it runs on when 2048 MiB are
early  failed   tiny   2      2.0 GiB  0 B        -        60m  the VMM of VM early ended with status 1 before its guest was ready…
`
	lines := strings.SplitAfter(out.String(), "\n")
	if diff := cmp.Diff(want, strings.Join(lines[:4], "")); diff != "" {
		t.Error(diff)
	}
	if last := strings.TrimSuffix(lines[4], "\n"); !strings.HasSuffix(last, " "+strings.Repeat("x", reasonLimit-1)+"…") {
		t.Errorf("a long reason: %s", last)
	}
}
