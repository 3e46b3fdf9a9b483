package agent

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/banger-vm/banger/internal/guest/proto"
)

func TestKernelLine(t *testing.T) {
	for record, want := range map[string]string{
		"6,339,5140900,-;NET: Registered protocol\n SUBSYSTEM=net\n": "[    5.140900] NET: Registered protocol",
		"12,1,0,c;systemd[1]: a;b":                                   "[    0.000000] systemd[1]: a;b",
		"nonsense":                                                   "nonsense",
		"6,1,x,-;text":                                               "6,1,x,-;text",
	} {
		if got := kernelLine(record); got != want {
			t.Errorf("%q: %q, want %q", record, got, want)
		}
	}
}

// TestRecords reads records as /dev/kmsg gives them, lost ones among them.
func TestRecords(t *testing.T) {
	var wire bytes.Buffer
	answers := []any{"6,1,1000000,-;one\n", unix.EPIPE, "6,9,2000000,-;two\n", unix.EAGAIN}
	sendRecords(proto.NewWriter(&wire), func(p []byte) (int, error) {
		answer := answers[0]
		answers = answers[1:]
		if err, ok := answer.(error); ok {
			return -1, err
		}
		return copy(p, answer.(string)), nil
	})
	frames := proto.NewReader(&wire)
	for _, want := range []string{"k[    1.000000] one", "k[    2.000000] two"} {
		if f, err := frames.Next(); err != nil || string(f.Payload) != want {
			t.Fatalf("%q, %v", f.Payload, err)
		}
	}
}

func TestLongLines(t *testing.T) {
	var wire bytes.Buffer
	sendLines(proto.NewWriter(&wire), strings.NewReader("short\r\n"+strings.Repeat("x", 100_000)+"\nlast"))
	frames := proto.NewReader(&wire)
	for _, want := range []string{"short", strings.Repeat("x", proto.MaxLine), "last"} {
		if f, err := frames.Next(); err != nil || string(f.Payload) != "j"+want {
			t.Fatalf("%d bytes, %v", len(f.Payload), err)
		}
	}
}

func TestTakesSignal(t *testing.T) {
	status := filepath.Join(t.TempDir(), "status")
	// systemd blocks what it reads from a signalfd; busybox's handlers are caught.
	text := "Name:\tx\nSigBlk:\t0000002000000000\nSigIgn:\tffffffffffffffff\nSigCgt:\t0000000000000800\n"
	if err := os.WriteFile(status, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for s, want := range map[unix.Signal]bool{38: true, 39: false, unix.SIGUSR2: true, unix.SIGTERM: false} {
		if got := takesSignal(status, s); got != want {
			t.Errorf("signal %d: %v", s, got)
		}
	}
	if takesSignal("/no/such/file", 1) {
		t.Error("a process that is not there takes a signal")
	}
}

// TestPatience is about agents that hang: nobody waits for a word that the guest
// is up, and its shutdown does for a goodbye.
func TestPatience(t *testing.T) {
	for word, want := range map[string]time.Duration{
		"default": notifyTimeout, "system": notifyTimeout, "nonsense": notifyTimeout,
		"poweroff": notifyGoodbyeTimeout, "reboot": notifyGoodbyeTimeout, "halt": notifyGoodbyeTimeout,
	} {
		if got := patience(word); got != want {
			t.Errorf("%s may take %v", word, got)
		}
	}
}

// callers is a listener that gives connections of some addresses, then ends.
type callers struct {
	net.Listener
	from []net.Addr
	gone []net.Addr // whose connections were closed
}

type caller struct {
	net.Conn
	from net.Addr
	l    *callers
}

func (c caller) RemoteAddr() net.Addr { return c.from }

func (c caller) Close() error {
	c.l.gone = append(c.l.gone, c.from)
	return nil
}

func (l *callers) Accept() (net.Conn, error) {
	if len(l.from) == 0 {
		return nil, net.ErrClosed
	}
	next := caller{from: l.from[0], l: l}
	l.from = l.from[1:]
	return next, nil
}

// TestHostOnly has a guest's own program call by vsock's loopback, others, and
// then the host.
func TestHostOnly(t *testing.T) {
	others := []net.Addr{&vsock.Addr{ContextID: vsock.Local}, &vsock.Addr{ContextID: 3}, &vsock.Addr{}, &net.TCPAddr{}}
	host := &vsock.Addr{ContextID: vsock.Host, Port: 1}
	l := &callers{from: append(others, host)}
	conn, err := hostOnly{l}.Accept()
	if err != nil || conn.RemoteAddr() != host || len(l.gone) != len(others) {
		t.Errorf("%v, %v; closed: %v", conn, err, l.gone)
	}
	if _, err := (hostOnly{l}).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener: %v", err)
	}
}

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	for port, name := range map[string]string{"vport1p1": "org.other\n", "vport1p2": proto.SerialPort + "\n"} {
		os.Mkdir(filepath.Join(dir, port), 0o755)
		os.WriteFile(filepath.Join(dir, port, "name"), []byte(name), 0o644)
	}
	if path, ok := findPort(dir, proto.SerialPort); !ok || path != "/dev/vport1p2" {
		t.Fatal(path, ok)
	}
	if _, ok := findPort(dir, "missing"); ok {
		t.Fatal("a port that is not there was found")
	}
}

// TestPortDevice moves more than fits through a device that does not block, and
// ends its waiting.
func TestPortDevice(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d, err := newPortDevice(fds[0])
	if err != nil {
		t.Fatal(err)
	}
	far := os.NewFile(uintptr(fds[1]), "far end")
	go func() {
		io.CopyN(far, far, 8<<20)
	}()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 8<<20/16)
	go d.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(d, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := d.Read(got)
		ended <- err
	}()
	d.Close()
	if err := <-ended; !errors.Is(err, fs.ErrClosed) {
		t.Fatal(err)
	}
}

func TestOpenRC(t *testing.T) {
	run := t.TempDir()
	ready := make(chan error, 1)
	go func() { ready <- waitForOpenRC(run) }()
	put := func(name, text string) {
		if err := os.WriteFile(filepath.Join(run, "openrc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.Mkdir(filepath.Join(run, "openrc"), 0o755)
	put("rc.starting", "")
	put("softlevel", "boot\n")
	put("softlevel", "default\n")
	if openRCReady(run) {
		t.Fatal("ready while it is starting")
	}
	os.Remove(filepath.Join(run, "openrc", "rc.starting"))
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
}

// TestBlocks puts blocks into files of any content: the rest stays, and the
// same block again changes nothing.
func TestBlocks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.SampledFrom([]string{"", "a", "b # banger", "# banger end x", "\t"})
		text := strings.Join(rapid.SliceOfN(line, 0, 6).Draw(t, "text"), "\n")
		block := rapid.SliceOfN(rapid.SampledFrom([]string{"one", "two", "three"}), 0, 3).Draw(t, "block")
		other := rapid.SliceOfN(rapid.SampledFrom([]string{"four", "five"}), 1, 3).Draw(t, "other")
		once := withBlock(text, block)
		if again := withBlock(once, block); again != once {
			t.Fatalf("%q became %q", once, again)
		}
		if changed := withBlock(withBlock(text, other), block); len(block) > 0 && changed != once {
			t.Fatalf("%q, want %q", changed, once)
		}
		if gone := withBlock(once, nil); strings.TrimSuffix(gone, "\n") != strings.TrimSuffix(text, "\n") {
			t.Fatalf("%q is left of %q", gone, text)
		}
	})
}
