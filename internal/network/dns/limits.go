package dns

import (
	"net/netip"
	"sync"
	"time"
)

// limits counts what guests have under way. Its zero value is ready.
type limits struct {
	mu      sync.Mutex
	guests  map[netip.Addr]*usage
	queries int
	streams int
	now     func() time.Time // nil: the clock
}

// usage is one guest's. tokens is how many queries it may begin at once, as of
// the time.
type usage struct {
	tokens  float64
	as      time.Time
	queries int
	streams int
}

// query begins a query, or says that the guest must wait; queryDone ends it.
func (l *limits) query(guest netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(guest)
	if u.queries >= guestQueries || l.queries >= totalQueries || u.tokens < 1 {
		return false
	}
	u.tokens--
	u.queries++
	l.queries++
	return true
}

func (l *limits) queryDone(guest netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(guest).queries--
	l.queries--
}

// stream begins a connection, or says that the guest has too many; streamDone
// ends it.
func (l *limits) stream(guest netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	u := l.of(guest)
	if u.streams >= guestStreams || l.streams >= totalStreams {
		return false
	}
	u.streams++
	l.streams++
	return true
}

func (l *limits) streamDone(guest netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(guest).streams--
	l.streams--
}

// of finds the guest's usage and fills its bucket up to now. There is one for
// each address that was ever served: at most the range's.
func (l *limits) of(guest netip.Addr) *usage {
	now := l.clock()
	u := l.guests[guest]
	if u == nil {
		if l.guests == nil {
			l.guests = map[netip.Addr]*usage{}
		}
		u = &usage{tokens: burst, as: now}
		l.guests[guest] = u
	}
	u.tokens = min(burst, u.tokens+now.Sub(u.as).Seconds()*perSecond)
	u.as = now
	return u
}

func (l *limits) clock() time.Time {
	if l.now != nil {
		return l.now()
	}
	return time.Now()
}
