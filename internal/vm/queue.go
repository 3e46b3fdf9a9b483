package vm

import (
	"context"
	"slices"
	"sync"
)

// bootQueue lets as many guests boot at once as there are processors: more
// would only slow each other down into their time-outs. The others wait in the
// order in which they came.
type bootQueue struct {
	mu      sync.Mutex
	free    int
	waiting []chan int // each is told its place as it moves up, 0 when it is its turn
}

func newBootQueue(processors int) *bootQueue { return &bootQueue{free: processors} }

// enter returns when it is the caller's turn, which lasts until leave, or when
// ctx is over. Those who wait are told their place, 1 being the next, as it
// changes.
func (q *bootQueue) enter(ctx context.Context, moved func(place int)) (leave func(), err error) {
	mine := q.line()
	for {
		select {
		case place := <-mine:
			if place == 0 {
				return q.leave, nil
			}
			moved(place)
		case <-ctx.Done():
			q.giveUp(mine)
			return nil, context.Cause(ctx)
		}
	}
}

// line gives a newcomer its place.
func (q *bootQueue) line() chan int {
	q.mu.Lock()
	defer q.mu.Unlock()
	mine := make(chan int, 1)
	if q.free > 0 {
		q.free--
		mine <- 0
		return mine
	}
	q.waiting = append(q.waiting, mine)
	mine <- len(q.waiting)
	return mine
}

func (q *bootQueue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pass()
}

// giveUp takes a channel out of the queue; one whose turn has come meanwhile
// passes it on.
func (q *bootQueue) giveUp(mine chan int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := slices.Index(q.waiting, mine)
	if i < 0 {
		q.pass()
		return
	}
	q.waiting = slices.Delete(q.waiting, i, i+1)
	q.tell(i)
}

// pass gives a turn that is over to the next.
func (q *bootQueue) pass() {
	if len(q.waiting) == 0 {
		q.free++
		return
	}
	replace(q.waiting[0], 0)
	q.waiting = slices.Delete(q.waiting, 0, 1)
	q.tell(0)
}

// tell tells those from i on that they have moved up.
func (q *bootQueue) tell(i int) {
	for ; i < len(q.waiting); i++ {
		replace(q.waiting[i], i+1)
	}
}

// replace leaves only the newest place in a channel, whose only writer the
// queue's lock makes this.
func replace(c chan int, place int) {
	select {
	case <-c:
	default:
	}
	c <- place
}
