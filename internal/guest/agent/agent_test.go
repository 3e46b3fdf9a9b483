package agent_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// TestMain takes hang-ups: one that whoever started the tests ignores, as nohup
// does, would be ignored by every command that the tests start.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// memoryKernel is a guest's kernel that keeps in memory what it was told.
type memoryKernel struct {
	mu        sync.Mutex
	hostname  string
	addresses []netip.Prefix
	routes    []proto.Route
	clock     time.Time
	entropy   int
	signalled chan unix.Signal
}

func (k *memoryKernel) SetHostname(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.hostname = name
	return nil
}

func (k *memoryKernel) SetInterface(_ string, addresses []netip.Prefix, routes []proto.Route) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.addresses, k.routes = addresses, routes
	return nil
}

func (k *memoryKernel) SetClock(t time.Time) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.clock = t
	return nil
}

func (k *memoryKernel) AddEntropy(seed []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.entropy += len(seed)
	return nil
}

func (k *memoryKernel) InMemory(string) error { return nil }

func (k *memoryKernel) AwaitHandOver(time.Duration) error { return nil }

func (k *memoryKernel) SignalProcess1(s unix.Signal, _ time.Duration) error {
	k.signalled <- s
	return nil
}

// guest is a running agent and the host's way to it.
type guest struct {
	*host.Agent
	agent  *agent.Agent
	kernel *memoryKernel
	root   string
	dial   host.Dialer
}

// start runs an agent whose files are in a directory of its own, and whose
// image has this init.
func start(t testing.TB, init proto.InitKind) guest {
	t.Helper()
	return startWith(t, init, agent.Options{})
}

// startWith is start with options of the caller's.
func startWith(t testing.TB, init proto.InitKind, o agent.Options) guest {
	t.Helper()
	root := t.TempDir()
	write(t, filepath.Join(root, "run/banger/init"), string(init)+"\n")
	kernel := &memoryKernel{signalled: make(chan unix.Signal, 1)}
	o.Root, o.Version, o.Kernel = root, "v1", kernel
	a := agent.New(o)
	socket := filepath.Join(root, "link.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go a.Serve(l)
	g := guestAt(a, root, socket)
	g.kernel = kernel
	return g
}

// guestAt is the host's way to an agent that listens on a socket.
func guestAt(a *agent.Agent, root, socket string) guest {
	dial := func(ctx context.Context, _ uint32) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return guest{Agent: host.New(dial), agent: a, root: root, dial: dial}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
