//go:build hosttest

package lives

import (
	"runtime"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// A boot's time-out counts from the boot: neither those that are held before it for
// longer nor the one that waits in the queue behind them miss it.
func TestTheQueueIsNoPartOfABootsTimeout(t *testing.T) {
	const timeout = 10 * time.Second // a guest here takes milliseconds
	s := newStation(t)
	s.more = append(s.more, "BANGER_BOOT_TIMEOUT="+timeout.String())
	s.start()
	boots := runtime.NumCPU() + 1
	ended := make(chan error, boots)
	start := func(report func(api.StepEvent)) {
		go func() {
			created, err := s.client.Create(s.ctx(), api.CreateRequest{}, report)
			if err == nil {
				created.Close()
			}
			ended <- err
		}()
	}
	var held []*testenv.Gate
	for range boots - 1 {
		halted, err := testenv.CloseGate(s.halts, "start.boot")
		s.check(err)
		start(nil)
		s.check(halted.Await(patience))
		held = append(held, halted)
	}
	queued := make(chan struct{})
	start(func(e api.StepEvent) {
		if e.Name == "queue" {
			close(queued)
		}
	})
	select {
	case <-queued:
	case err := <-ended:
		t.Fatalf("a start did not wait in the queue: %v", err)
	}
	time.Sleep(timeout + timeout/10)
	for _, halted := range held {
		halted.Open()
	}
	for range boots {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for _, v := range s.agrees() {
		if v.State != api.StateRunning || v.Reason != "" {
			t.Errorf("%s is %s: %s", v.Name, v.State, v.Reason)
		}
	}
	s.empty()
}
