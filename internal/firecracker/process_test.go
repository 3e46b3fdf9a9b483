package firecracker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/proc"
	"golang.org/x/sys/unix"
)

// patience says when a test has hung.
const patience = 20 * time.Second

func patient(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// shortDir is a directory whose sockets' paths are short.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "fc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// plain is a VMM that runs as who runs the test.
func plain(t *testing.T) firecracker.Spawn {
	t.Helper()
	console, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { console.Close() })
	return firecracker.Spawn{
		Bin: fcmem, ID: "vm-1", Dir: shortDir(t), UID: os.Geteuid(), GID: os.Getegid(), Console: console,
	}
}

func mustStart(t *testing.T, s firecracker.Spawn) *firecracker.Process {
	t.Helper()
	p, err := firecracker.Start(patient(t), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Kill(ctx); err != nil {
			t.Error(err)
		}
		p.Release()
	})
	return p
}

func awaitDone(t *testing.T, p *firecracker.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-patient(t).Done():
		t.Fatal("the VMM does not end")
	}
}

func TestAStartedVMMAnswersAtOnce(t *testing.T) {
	p := mustStart(t, plain(t))
	info, err := p.Client().Describe(patient(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.ID != "vm-1" || info.State != firecracker.StateNotStarted {
		t.Errorf("it says %+v", info)
	}
	if _, known := p.Exit(); known {
		t.Error("it has an exit status while it runs")
	}
}

func TestKillEndsIt(t *testing.T) {
	p := mustStart(t, plain(t))
	if err := p.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, p)
	if status, known := p.Exit(); status != 128+int(unix.SIGKILL) || !known {
		t.Errorf("it ended with %d, known %t", status, known)
	}
	if err := p.Kill(patient(t)); err != nil {
		t.Errorf("killing it again: %v", err)
	}
	if err := p.Signal(unix.SIGSTOP); !errors.Is(err, firecracker.ErrGone) {
		t.Errorf("a signal to it: %v", err)
	}
}

func TestKillEndsAStoppedOne(t *testing.T) {
	p := mustStart(t, plain(t))
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
}

func TestKillEndsWhatItStarted(t *testing.T) {
	s := plain(t)
	s.Bin, s.Args = self(t), []string{"parent"}
	said := consoleOf(t, &s)
	p := mustStart(t, s)
	var pid int
	if _, err := fmt.Fscanln(said, &pid); err != nil {
		t.Fatal(err)
	}
	id, err := proc.Of(pid)
	if err != nil {
		t.Fatal(err)
	}
	child, err := proc.Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Close()
	if err := p.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-child.Done():
	case <-patient(t).Done():
		t.Error("its child lives on")
	}
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// consoleOf makes the VMM's console a pipe and returns the end to read.
func consoleOf(t *testing.T, s *firecracker.Spawn) *os.File {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close(); write.Close() })
	s.Console = write
	return read
}

func TestAVMMThatEndsAtOnceIsQuoted(t *testing.T) {
	s := plain(t)
	s.Args = []string{"--level", "Loud"}
	_, err := firecracker.Start(patient(t), s)
	for _, part := range []string{"status 152", firecracker.ErrorLog, "Loud"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %v, expected in it: %s", err, part)
		}
	}
}

// A guest can make its VMM log without end: that takes no room of the host's.
func TestAVMMsLogTakesNoRoom(t *testing.T) {
	s := plain(t)
	s.Bin, s.Args = self(t), []string{"chatty"}
	p, err := firecracker.Start(patient(t), s)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	defer p.Kill(patient(t))
	files, err := os.ReadDir(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > 64<<10 {
			t.Errorf("%s has %d bytes (%v)", f.Name(), info.Size(), err)
		}
	}
	s.Args = []string{"chatty, once"}
	_, err = firecracker.Start(patient(t), s)
	for _, part := range []string{"status 3", firecracker.Log, "the guest does what it must not"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %v, expected in it: %s", err, part)
		}
	}
}

// What a VMM said last is what a person wants to know when it has crashed, be it
// one that an earlier daemon started.
func TestTheEndOfALongLogIsKept(t *testing.T) {
	s := plain(t)
	s.Bin, s.Args = self(t), []string{"wordy"}
	p := mustStart(t, s)
	if err := p.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if said := p.LastWords(); !strings.HasPrefix(said, firecracker.Log+": line ") || !strings.HasSuffix(said, "line 2999: the guest does what it must not\nthe last of all lines") || len(said) > 4<<10 {
			t.Errorf("it said: %s", said)
		}
	}
}

func TestAnAdoptedVMMIsHeard(t *testing.T) {
	s := plain(t)
	first, err := firecracker.Start(patient(t), s)
	if err != nil {
		t.Fatal(err)
	}
	first.LastWords() // and no more
	first.Release()
	log, err := os.OpenFile(filepath.Join(s.Dir, firecracker.Log), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	fmt.Fprintln(log, "said to no daemon")
	p, err := firecracker.Adopt(patient(t), first.Identity(), s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	defer p.Kill(patient(t))
	fmt.Fprintln(log, "said to the second daemon")
	if said := p.LastWords(); !strings.Contains(said, "said to no daemon\nsaid to the second daemon") {
		t.Errorf("it said: %s", said)
	}
}

// The directory is the VMM's: it may put a pipe there that never ends.
func TestAPipeInThePlaceOfAVMMsWordsIsNotReadFrom(t *testing.T) {
	s := plain(t)
	p := mustStart(t, s)
	path := filepath.Join(s.Dir, firecracker.ErrorLog)
	if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
		t.Fatal(err)
	}
	writer, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	if said := p.LastWords(); strings.Contains(said, firecracker.ErrorLog) {
		t.Errorf("it said: %s", said)
	}
}

func TestAProgramThatIsNotThereIsToldByName(t *testing.T) {
	s := plain(t)
	s.Bin = filepath.Join(s.Dir, "nope")
	_, err := firecracker.Start(patient(t), s)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), s.Bin) {
		t.Errorf("the error is %v", err)
	}
}

func TestAVMMThatNeverListensIsGivenUp(t *testing.T) {
	s := plain(t)
	s.Bin, s.Args = self(t), []string{"deaf"}
	said := consoleOf(t, &s)
	ctx, cancel := context.WithCancelCause(t.Context())
	tired := errors.New("the caller is tired of waiting")
	go func() {
		said.Read(make([]byte, 1)) // it runs
		cancel(tired)
	}()
	if _, err := firecracker.Start(ctx, s); !errors.Is(err, tired) {
		t.Errorf("the error is %v", err)
	}
}

func TestASocketThatWasLeftOverIsReplaced(t *testing.T) {
	s := plain(t)
	first := mustStart(t, s)
	if err := first.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
	second := mustStart(t, s)
	if _, err := second.Client().Version(patient(t)); err != nil {
		t.Error(err)
	}
}

func TestAdoptFindsItAgain(t *testing.T) {
	p := mustStart(t, plain(t))
	again, err := firecracker.Adopt(patient(t), p.Identity(), p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Release()
	if _, err := again.Client().Describe(patient(t)); err != nil {
		t.Error(err)
	}
	if err := again.Kill(patient(t)); err != nil {
		t.Fatal(err)
	}
	awaitDone(t, again)
	if _, known := again.Exit(); known {
		t.Error("the exit status of a VMM that another daemon started is known")
	}
}

func TestAdoptFindsAStoppedOne(t *testing.T) {
	p := mustStart(t, plain(t))
	if err := p.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	again, err := firecracker.Adopt(patient(t), p.Identity(), p.Dir())
	if err != nil {
		t.Fatal(err)
	}
	again.Release()
}

func TestAdoptIsNotFooled(t *testing.T) {
	p := mustStart(t, plain(t))
	t.Run("by another process of the same number", func(t *testing.T) {
		id := p.Identity()
		id.StartTime++
		if _, err := firecracker.Adopt(patient(t), id, p.Dir()); !errors.Is(err, firecracker.ErrGone) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by another boot of the host", func(t *testing.T) {
		id := p.Identity()
		id.BootID = "00000000-0000-0000-0000-000000000000"
		if _, err := firecracker.Adopt(patient(t), id, p.Dir()); !errors.Is(err, firecracker.ErrGone) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by a process that serves no API", func(t *testing.T) {
		if _, err := firecracker.Adopt(patient(t), p.Identity(), t.TempDir()); !errors.Is(err, firecracker.ErrNoAPI) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by a process that serves another's API", func(t *testing.T) {
		other := mustStart(t, plain(t))
		if _, err := firecracker.Adopt(patient(t), p.Identity(), other.Dir()); !errors.Is(err, firecracker.ErrNoAPI) {
			t.Errorf("the error is %v", err)
		}
	})
	t.Run("by one that has ended", func(t *testing.T) {
		if err := p.Kill(patient(t)); err != nil {
			t.Fatal(err)
		}
		if _, err := firecracker.Adopt(patient(t), p.Identity(), p.Dir()); !errors.Is(err, firecracker.ErrGone) {
			t.Errorf("the error is %v", err)
		}
	})
}

func TestWhatAVMMIsGiven(t *testing.T) {
	t.Setenv("SECRET", "of the daemon")
	s := plain(t)
	lock, err := os.Create(filepath.Join(s.Dir, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	s.Hold = []*os.File{lock}
	p := mustStart(t, s)
	pid := p.Identity().PID

	if env := procFile(t, pid, "environ"); env != "" {
		t.Errorf("its environment is %q", env)
	}
	status := procFile(t, pid, "status")
	for _, line := range []string{"Umask:\t0077", "NoNewPrivs:\t1", fmt.Sprintf("Uid:\t%d\t%[1]d", s.UID)} {
		if !strings.Contains(status, line) {
			t.Errorf("its status has no line %q:\n%s", line, status)
		}
	}
	limits := procFile(t, pid, "limits")
	for _, line := range []string{"Max open files            2048 ", "Max core file size        0 "} {
		if !strings.Contains(limits, line) {
			t.Errorf("its limits have no %q:\n%s", line, limits)
		}
	}
	if session, err := unix.Getsid(pid); err != nil || session != pid {
		t.Errorf("its session is %d (%v), not its own, %d", session, err, pid)
	}
	for fd, path := range map[string]string{"cwd": s.Dir, "fd/0": os.DevNull, "fd/2": filepath.Join(s.Dir, firecracker.ErrorLog), "fd/3": lock.Name(), "fd/4": filepath.Join(s.Dir, firecracker.Log)} {
		if got, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, fd)); err != nil || got != path {
			t.Errorf("its %s is %s (%v), not %s", fd, got, err, path)
		}
	}
	for _, name := range []string{firecracker.Log, firecracker.ErrorLog, firecracker.APISocket} {
		info, err := os.Lstat(filepath.Join(s.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o: others can open it", name, mode)
		}
	}
}

func TestTheDaemonKeepsItsOwnDirectoryAndUmask(t *testing.T) {
	before, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o022)
	unix.Umask(old)
	mustStart(t, plain(t))
	after, err := os.Getwd()
	if err != nil || after != before {
		t.Errorf("the daemon is now in %s (%v)", after, err)
	}
	if now := unix.Umask(old); now != old {
		t.Errorf("the daemon's umask is now %o", now)
	}
	if status := procFile(t, os.Getpid(), "status"); !strings.Contains(status, "NoNewPrivs:\t0") {
		t.Error("the daemon gave up its own privileges")
	}
}

func procFile(t *testing.T, pid int, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
