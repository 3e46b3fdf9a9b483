package vm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
)

// TestPlacesInTheQueue: those who wait come to their turn in their order, are
// told of each place that they move up, and leave no gap when they give up.
func TestPlacesInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newBootQueue(1)
		first, err := q.enter(t.Context(), func(int) { t.Error("the first had to wait") })
		if err != nil {
			t.Fatal(err)
		}
		wait := func() waiter {
			w := waiter{places: &[]int{}, end: make(chan struct{}), done: make(chan error, 1)}
			ctx, cancel := context.WithCancelCause(t.Context())
			w.giveUp = cancel
			go func() {
				leave, err := q.enter(ctx, func(place int) { *w.places = append(*w.places, place) })
				if err == nil {
					<-w.end
					leave()
				}
				w.done <- err
			}()
			synctest.Wait()
			return w
		}
		a, b, c := wait(), wait(), wait()
		tired := errors.New("tired")
		b.giveUp(tired)
		if err := <-b.done; !errors.Is(err, tired) {
			t.Errorf("who gave up got %v", err)
		}
		synctest.Wait()
		first()
		for _, w := range []waiter{a, c} {
			synctest.Wait()
			close(w.end)
			if err := <-w.done; err != nil {
				t.Error(err)
			}
		}
		for name, got := range map[string][2][]int{"a": {*a.places, {1}}, "b": {*b.places, {2}}, "c": {*c.places, {3, 2, 1}}} {
			if diff := cmp.Diff(got[1], got[0]); diff != "" {
				t.Errorf("the places of %s: %s", name, diff)
			}
		}
		if q.free != 1 || len(q.waiting) != 0 {
			t.Errorf("left: %d free, %d waiting", q.free, len(q.waiting))
		}
	})
}

type waiter struct {
	places *[]int
	end    chan struct{} // of its turn
	done   chan error
	giveUp context.CancelCauseFunc
}

// TestTheQueueHoldsItsLimit: many come and give up at once; never more than two
// have their turn, and at the end both places are free.
func TestTheQueueHoldsItsLimit(t *testing.T) {
	const processors = 2
	q := newBootQueue(processors)
	var inside, most atomic.Int32
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if n%3 == 0 {
				go cancel()
			}
			leave, err := q.enter(ctx, func(int) {})
			if err != nil {
				return
			}
			if now := inside.Add(1); now > processors {
				most.Store(now)
			}
			inside.Add(-1)
			leave()
		})
	}
	all.Wait()
	if most.Load() > processors || q.free != processors || len(q.waiting) != 0 {
		t.Errorf("%d at once, %d free, %d waiting", most.Load(), q.free, len(q.waiting))
	}
}
