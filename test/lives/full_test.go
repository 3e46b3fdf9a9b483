//go:build hosttest

package lives

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// fillUp leaves nothing of the filesystem free, at once.
func (s *station) fillUp() {
	s.Helper()
	s.leave(0)
}

// What happens to a VM on a disk where its record can't be written is known to
// bangerd all the same.
func TestVMMEndsOnAFullDisk(t *testing.T) {
	s := newFillableStation(t)
	s.fillUp()
	s.endProcess(s.vm("one").VMM.PID)
	if v := s.awaitState("one", is(api.StateFailed)); v.Reason != killedVMM {
		t.Errorf("the reason is %q, not %q", v.Reason, killedVMM)
	}
	s.agrees()
	s.room()
	_, err := s.client.StartVM(s.ctx(), "one", api.StartRequest{}, nil)
	s.check(err)
	s.answers()
	s.empty()
}

// A disk that is full before bangerd has looked pauses the VM too, for the next
// bangerd as well, which finds a record without a word of it.
func TestPauseOnAFullDisk(t *testing.T) {
	s := newFillableStation(t)
	boot := s.exec("one", "boot")
	s.fillUp()
	s.awaitState("one", is(api.StatePaused))
	s.awaitHalted("one")
	s.kill()
	s.start()
	s.awaitState("one", is(api.StatePaused))
	s.kill()
	s.room()
	s.start()
	s.awaitUnhalted("one")
	s.awaitState("one", is(api.StateRunning))
	if now := s.exec("one", "boot"); now != boot {
		t.Error("it is another boot")
	}
	s.empty()
}

// A full disk keeps nobody from stopping and deleting a VM.
func TestStopAndDeleteOnAFullDisk(t *testing.T) {
	s := newFillableStation(t)
	s.run("two")
	s.fillUp()
	for _, name := range []string{"one", "two"} {
		s.awaitState(name, is(api.StatePaused))
	}
	v, err := s.client.StopVM(s.ctx(), "one", api.StopRequest{}, nil)
	s.check(err)
	if v.State != api.StateStopped {
		t.Errorf("it is %s", v.State)
	}
	s.agrees()
	s.check(s.client.DeleteVM(s.ctx(), "two", nil))
	s.agrees()
	s.empty()
}

// A VMM that hangs while the disk fills pauses when it does not any more, and
// runs on as soon as there is room.
func TestVMMHangsOverAPause(t *testing.T) {
	s := newFillableStation(t)
	s.run("two")
	pid := s.vm("one").VMM.PID
	s.check(testenv.Stop(pid, patience))
	from := s.log.end()
	s.fill()
	s.awaitState("two", is(api.StatePaused))
	s.log.await(t, from, "cannot pause VM one")
	s.room()
	s.check(unix.Kill(pid, unix.SIGCONT))
	s.awaitUnhalted("one")
	for _, name := range []string{"one", "two"} {
		s.awaitState(name, is(api.StateRunning))
		s.exec(name, "true")
	}
	s.empty()
}

// Who stops a paused VM lets its guest run on first; when they are gone by then it
// is paused again.
func TestClientDiesOverTheStopOfAPausedVM(t *testing.T) {
	s := newFillableStation(t)
	s.fill()
	s.awaitState("one", is(api.StatePaused))
	halted, err := testenv.CloseGate(s.halts, "resume.record")
	s.check(err)
	s.tell("vm", "stop", "one")
	s.check(halted.Await(patience))
	s.awaitUnhalted("one")
	if _, err := clientDies.die(s, halted); err == nil {
		t.Error("the stop went well")
	}
	s.awaitHalted("one")
	s.room()
	s.awaitState("one", is(api.StateRunning))
	s.answers()
	s.empty()
}

// A bangerd that finds a stop half done, and no room to say that the VM runs,
// takes it up all the same.
func TestDaemonDiesOverAStopOnAFullDisk(t *testing.T) {
	s := newFillableStation(t)
	halted, err := testenv.CloseGate(s.halts, "stop.shutdown")
	s.check(err)
	s.tell("vm", "stop", "one")
	s.check(halted.Await(patience))
	s.kill()
	halted.Open()
	if s.outcome() == nil {
		t.Error("the stop went well")
	}
	s.fillUp()
	s.start()
	s.awaitState("one", is(api.StatePaused))
	s.room()
	s.awaitState("one", is(api.StateRunning))
	s.answers()
	s.empty()
}

// leave leaves so many bytes of the state's filesystem free.
func (s *station) leave(free int64) {
	s.Helper()
	var st unix.Statfs_t
	dir := filepath.Join(s.dir, "state")
	for late := time.Now().Add(patience); ; {
		s.check(unix.Statfs(dir, &st))
		used := int64(st.Blocks-st.Bfree) * st.Bsize
		err := unix.Mount("", dir, "", unix.MS_REMOUNT, fmt.Sprintf("size=%d", used+free))
		if grown := errors.Is(err, unix.EINVAL); !grown || time.Now().After(late) {
			s.check(err)
			return
		}
	}
}
