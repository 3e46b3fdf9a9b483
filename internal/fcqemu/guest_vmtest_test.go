//go:build vmtest

package fcqemu

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// bootTime is far more than a boot takes, on a machine that does much else.
const bootTime = 2 * time.Minute

// quiet is the command line of the tests' guests, as banger's own begin.
const quiet = "console=ttyS0 quiet loglevel=4 reboot=k panic=1 net.ifnames=0 8250.nr_uarts=1"

func init() { runtime.LockOSThread() }

// spawn starts processes from the main thread.
var spawn Spawn

func TestMain(m *testing.M) {
	os.Exit(OnMainThread(func(s Spawn) int {
		spawn = s
		defer func() { _ = os.RemoveAll(programDir) }()
		return m.Run()
	}))
}

// kernelDir is where the default kernel is, that banger has fetched.
func kernelDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("BANGER_TEST_KERNEL")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(home, ".local/share/banger/kernels/generic-6.12")
	}
	if _, err := os.Stat(filepath.Join(dir, "vmlinux")); err != nil {
		t.Fatalf("these tests boot guests: let banger fetch its default kernel first, or name another kernel's directory in BANGER_TEST_KERNEL (%v)", err)
	}
	return dir
}

// testInitramfs is the kernel's own initramfs, whose modules it takes, with
// the tests' guest program for its init.
var testInitramfs = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "fcqemu-guest-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "init")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./testdata/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("cannot build the guest's program: %w\n%s", err, out)
	}
	return os.ReadFile(program)
})

func buildInitramfs(t testing.TB) string {
	t.Helper()
	program, err := testInitramfs()
	if err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(filepath.Join(kernelDir(t), "initramfs"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.Write(base)
	b.Write(make([]byte, -len(base)&3))
	w := cpio.NewWriter(&b)
	if err := w.WriteHeader(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755, Size: int64(len(program)), Links: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(program); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// testGuest is a guest that was booted, and its console.
type testGuest struct {
	*Machine
	t     testing.TB
	lines chan string
	seen  []string
	keys  *os.File // its keyboard: what is written there it reads
	log   *logLines
}

type logLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *logLines) logf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

func (l *logLines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// config is a guest with one processor that does what the verbs say.
func config(t testing.TB, verbs ...string) fcserver.Config {
	t.Helper()
	return fcserver.Config{
		ID:      "test",
		Machine: firecracker.MachineConfig{VCPUCount: 1, MemSizeMiB: 256},
		Kernel:  openFile(t, filepath.Join(kernelDir(t), "vmlinux"), os.O_RDONLY),
		Initrd:  openFile(t, buildInitramfs(t), os.O_RDONLY),
		Cmdline: quiet + " do=" + strings.Join(verbs, ","),
	}
}

func openFile(t testing.TB, path string, flags int) *fcserver.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &fcserver.File{Path: path, File: f}
}

// drive is a new file of so many bytes that begins with words.
func drive(t testing.TB, size int64, words string) fcserver.Drive {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if err := os.WriteFile(path, []byte(words), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return fcserver.Drive{ID: "drive", File: openFile(t, path, os.O_RDWR), Cache: firecracker.CacheWriteback, Engine: firecracker.EngineSync}
}

// boot starts cfg and fails the test where that fails.
func boot(t testing.TB, cfg fcserver.Config) *testGuest {
	t.Helper()
	return bootWith(t, cfg, nil)
}

func bootWith(t testing.TB, cfg fcserver.Config, dial dialHost) *testGuest {
	t.Helper()
	console, out := pipe(t)
	in, keys := pipe(t)
	g := &testGuest{Machine: New(spawn), t: t, lines: make(chan string, 100_000), keys: keys, log: &logLines{}}
	if err := g.Check(cfg); err != nil {
		t.Fatal(err)
	}
	go scan(console, g.lines)
	err := g.Boot(context.Background(), cfg, fcserver.Env{In: in, Out: out, DialHost: dial, Logf: g.log.logf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = g.Close()
		_ = out.Close()
		if t.Failed() {
			t.Logf("console:\n%s\nlog:\n%s", strings.Join(g.seen, "\n"), g.log.text())
		}
	})
	return g
}

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func scan(from io.Reader, lines chan<- string) {
	defer close(lines)
	s := bufio.NewScanner(from)
	for s.Scan() {
		lines <- strings.TrimRight(s.Text(), "\r")
	}
}

// expect waits for a line of the console that contains text, and returns it.
func (g *testGuest) expect(text string) string {
	g.t.Helper()
	late := time.After(bootTime)
	for {
		select {
		case line, ok := <-g.lines:
			if !ok {
				g.t.Fatalf("the console ended before %q", text)
			}
			g.seen = append(g.seen, line)
			if strings.Contains(line, text) {
				return line
			}
		case <-late:
			g.t.Fatalf("the console did not say %q", text)
		}
	}
}

// until collects the lines that begin with prefix up to one that contains end.
func (g *testGuest) until(end, prefix string) []string {
	g.t.Helper()
	from := len(g.seen)
	g.expect(end)
	var all []string
	for _, line := range g.seen[from:] {
		if rest, ok := strings.CutPrefix(line, prefix); ok {
			all = append(all, rest)
		}
	}
	return all
}

// say types a verb for the guest to do.
func (g *testGuest) say(verb string) {
	g.t.Helper()
	if _, err := g.keys.WriteString(verb + "\n"); err != nil {
		g.t.Fatal(err)
	}
}

// ended waits for the machine's end and returns its status.
func (g *testGuest) ended() int {
	g.t.Helper()
	select {
	case <-g.Done():
		return g.Status()
	case <-time.After(bootTime):
		g.t.Fatal("the machine did not end")
		return -1
	}
}

// still fails when the machine is not running any more.
func (g *testGuest) still() {
	g.t.Helper()
	select {
	case <-g.Done():
		g.t.Fatalf("the machine has ended with status %d", g.Status())
	default:
	}
}

// dialUnix is an Env.DialHost that connects to `<path>_<port>`.
func dialUnix(path string) dialHost {
	return func(ctx context.Context, port uint32) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", fmt.Sprintf("%s_%d", path, port))
	}
}
