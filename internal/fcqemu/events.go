package fcqemu

import (
	"encoding/json"

	"github.com/banger-vm/banger/internal/fcqemu/qmp"
)

// event acts on what QEMU tells of its guest.
func (q *qemu) event(e qmp.Event) {
	switch e.Name {
	case "SHUTDOWN":
		q.shutDown(e.Data)
	case "BLOCK_IO_ERROR":
		q.diskFailed(e.Data)
	}
}

// shutDown comes before QEMU stops the guest, so that another processor may
// cause a second one. A triple fault is a reset too, it is how the kernel
// resets the machine.
func (q *qemu) shutDown(data json.RawMessage) {
	var why struct {
		Reason string `json:"reason"`
	}
	_ = json.Unmarshal(data, &why)
	switch why.Reason {
	case "guest-reset":
		q.logf("the guest has reset the machine")
		q.resetOnce.Do(func() { close(q.reset) })
	case "guest-shutdown":
		q.logf("the guest has powered itself off and is idle now")
		q.offOnce.Do(func() { close(q.off) })
	default:
		q.logf("QEMU shuts down: %s", why.Reason)
	}
}

func (q *qemu) diskFailed(data json.RawMessage) {
	var failure struct {
		Node      string `json:"node-name"`
		Operation string `json:"operation"`
		Reason    string `json:"reason"`
	}
	_ = json.Unmarshal(data, &failure)
	q.logf("a %s of %s failed and the guest was told: %s", failure.Operation, failure.Node, failure.Reason)
}

// poweredOff says whether the guest's processors are at their end for good.
func (q *qemu) poweredOff() bool {
	select {
	case <-q.off:
		return true
	default:
		return false
	}
}
