//go:build hosttest

package lives

import (
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// A boot's time-out counts from the boot: neither those that are held before it for
// longer nor the one that waits in the queue behind them miss it. That it is over
// tells a guest that never says a word and boots after all these have come so far.
func TestTheQueueIsNoPartOfABootsTimeout(t *testing.T) {
	const timeout = 10 * time.Second // a guest here takes milliseconds
	s := newStation(t)
	s.more = append(s.more, "BANGER_BOOT_TIMEOUT="+timeout.String())
	s.start()
	s.makeOdd("deaf", "deaf")
	givenUp := make(chan error, 1)
	last := s.haltBoot(func() {
		_, err := s.client.StartVM(s.ctx(), "deaf", api.StartRequest{}, nil)
		givenUp <- err
	})
	others := runtime.NumCPU() // with the deaf one they are one too many
	ended := make(chan error, others)
	create := func(report func(api.StepEvent)) {
		created, err := s.client.Create(s.ctx(), api.CreateRequest{}, report)
		if err == nil {
			created.Close()
		}
		ended <- err
	}
	var held []*testenv.Gate
	for range others - 1 {
		held = append(held, s.haltBoot(func() { create(nil) }))
	}
	queued := make(chan struct{})
	go create(func(e api.StepEvent) {
		if e.Name == "queue" {
			close(queued)
		}
	})
	select {
	case <-queued:
	case err := <-ended:
		t.Fatalf("a start did not wait in the queue: %v", err)
	}
	last.Open()
	if err := <-givenUp; err == nil || !strings.Contains(err.Error(), "did not get ready within "+timeout.String()) {
		t.Errorf("the deaf guest's start ended with %v", err)
	}
	for _, halted := range held {
		halted.Open()
	}
	for range others {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	for _, v := range s.agrees() {
		if v.State != api.StateRunning || v.Reason != "" && v.Name != "deaf" {
			t.Errorf("%s is %s: %s", v.Name, v.State, v.Reason)
		}
	}
	s.empty()
}

// haltBoot has something start a VM, and returns when that is to boot and halts.
func (s *station) haltBoot(start func()) *testenv.Gate {
	s.Helper()
	halted, err := testenv.CloseGate(s.halts, "start.boot")
	s.check(err)
	go start()
	s.check(halted.Await(patience))
	return halted
}
