package agent

import (
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// history is all events of the guest's life, which are few, and who has been
// told of how many.
type history struct {
	mu       sync.Mutex
	events   []proto.Event
	watchers map[*watcher]int // how many events were sent
	changed  *sync.Cond
}

type watcher struct{ gone bool }

func newHistory(h proto.Hello) *history {
	s := &history{
		events:   []proto.Event{{Kind: proto.EventHello, Hello: &h}},
		watchers: map[*watcher]int{},
	}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// add tells all watchers of e, unless they know it already.
func (s *history) add(e proto.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.events, e) {
		return
	}
	s.events = append(s.events, e)
	s.changed.Broadcast()
}

// await waits until e has happened.
func (s *history) await(e proto.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !slices.Contains(s.events, e) {
		s.changed.Wait()
	}
}

// told waits until all watchers were told everything, at most for limit: what
// waits for it is the guest's own shutdown.
func (s *history) told(limit time.Duration) {
	over := false
	timer := time.AfterFunc(limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		over = true
		s.changed.Broadcast()
	})
	defer timer.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !over && s.someoneBehind() {
		s.changed.Wait()
	}
}

func (s *history) someoneBehind() bool {
	for w, sent := range s.watchers {
		if !w.gone && sent < len(s.events) {
			return true
		}
	}
	return false
}

// watch sends all events, past and coming, to conn until its other end closes.
func (s *history) watch(conn net.Conn) {
	w := &watcher{}
	s.join(w)
	defer s.leave(w)
	go func() {
		// The host sends nothing here: what ends this read is its going away.
		_, _ = conn.Read(make([]byte, 1))
		s.hangUp(w)
	}()
	out := proto.NewWriter(conn)
	for {
		e, ok := s.next(w)
		if !ok || out.JSON(proto.TypeEvent, e) != nil {
			return
		}
		s.sent(w)
	}
}

func (s *history) join(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w] = 0
}

func (s *history) leave(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watchers, w)
	s.changed.Broadcast()
}

func (s *history) hangUp(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.gone = true
	s.changed.Broadcast()
}

func (s *history) next(w *watcher) (proto.Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !w.gone && s.watchers[w] == len(s.events) {
		s.changed.Wait()
	}
	if w.gone {
		return proto.Event{}, false
	}
	return s.events[s.watchers[w]], true
}

func (s *history) sent(w *watcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers[w]++
	s.changed.Broadcast()
}

func (a *Agent) serveWatch(conn net.Conn) {
	if accept(conn, nil) == nil {
		a.events.watch(conn)
	}
}

func (a *Agent) hello() proto.Hello {
	return proto.Hello{
		Version: a.version,
		BootID:  bootID(),
		Init:    a.init,
		HasSSHD: isProgram(a.path("/usr/sbin/sshd")),
		NoShell: !isProgram(a.path(a.rootUser().shell)),
		Kernel:  kernelRelease(),
	}
}

func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "" // a hello without it is better than none
	}
	return strings.TrimSpace(string(id))
}

func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}
