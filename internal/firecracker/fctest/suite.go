package fctest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/firecracker"
)

// Target is a VMM to hold to Firecracker's rules.
type Target struct {
	// Bin is its program.
	Bin string
	// Kernel is an ELF vmlinux and Initrd the initramfs that goes with it
	// and has its modules; [RunGuest] puts its own first process on top.
	// Both are ignored by the in-memory machine.
	Kernel, Initrd string
	// Guest is program testguest. When it is empty [RunGuest] builds it.
	Guest string
	// Memory says that Bin is fcmem: its guest is built in.
	Memory bool
	// Tap is a tap in this process's network namespace that the VMM may
	// open. Without it nothing is asked about networks.
	Tap string
	// Lacks are API names of what the VMM refuses, each with a request that
	// the suite then sees refused by that name.
	Lacks []string
	// BootTimeout bounds a guest's boot: it says where a test has hung, not
	// how fast a guest must be.
	BootTimeout time.Duration
}

func (target Target) lacks(name string) bool { return slices.Contains(target.Lacks, name) }

// quick bounds everything that needs no guest.
const quick = 20 * time.Second

func (target Target) patience() time.Duration {
	if target.BootTimeout > 0 {
		return target.BootTimeout
	}
	return quick
}

// vmm is a VMM under test.
type vmm struct {
	t       *testing.T
	dir     string
	process *firecracker.Process
	http    *http.Client
	console *console
	version firecracker.Version
	// patience bounds what waits for the guest.
	patience time.Duration
}

// start starts the target in a directory of its own with some files to name:
// kernel (an ELF header and nothing else), notelf, disk1, disk2.
func start(t *testing.T, target Target, args ...string) *vmm {
	t.Helper()
	dir := workDir(t)
	console := newConsole(t)
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	p, err := firecracker.Start(ctx, firecracker.Spawn{
		Bin: target.Bin, ID: "conformance-1", Dir: dir, UID: os.Geteuid(), GID: os.Getegid(),
		Console: console.pipe, Args: args,
	})
	console.pipe.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, p) })
	v := &vmm{t: t, dir: dir, process: p, console: console, http: httpClient(filepath.Join(dir, firecracker.APISocket))}
	v.version, err = p.Client().Version(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func workDir(t *testing.T) string {
	t.Helper()
	// Not t.TempDir: its path can be longer than a socket's may be.
	dir, err := os.MkdirTemp("", "fctest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for name, content := range map[string]string{
		"kernel": KernelHeader, "notelf": strings.Repeat("x", 64), "initrd": "", "disk1": "", "disk2": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// KernelHeader is the least that passes for a kernel until it is run: the
// header of an ELF64 file.
const KernelHeader = "\x7fELF\x02\x01\x01" + "\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

func end(t *testing.T, p *firecracker.Process) {
	ctx, cancel := context.WithTimeout(context.Background(), quick)
	defer cancel()
	if err := p.Kill(ctx); err != nil {
		t.Error(err)
	}
	p.Release()
}

func httpClient(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives: true,
	}}
}

// reply is an answer of the API.
type reply struct {
	status     int
	body       string
	deprecated bool
}

// fault is the answer's fault_message.
func (r reply) fault() string {
	var answer struct {
		Message string `json:"fault_message"`
	}
	if json.Unmarshal([]byte(r.body), &answer) != nil {
		return ""
	}
	return answer.Message
}

func (v *vmm) ask(method, path, body string) reply {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), quick)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if body != "" {
		request, err = http.NewRequestWithContext(ctx, method, "http://localhost"+path, bytes.NewReader([]byte(body)))
	}
	if err != nil {
		v.t.Fatal(err)
	}
	response, err := v.http.Do(request)
	if err != nil {
		v.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return reply{response.StatusCode, string(content), response.Header.Get("Deprecation") == "true"}
}

func (v *vmm) do(steps ...step) {
	v.t.Helper()
	for _, s := range steps {
		r := v.ask(s.method, s.path, s.body)
		if r.status != s.status || !strings.Contains(r.body, s.says) && !strings.Contains(r.fault(), s.says) {
			v.t.Errorf("%s %s %s\n  answered %d %s\n  expected %d ...%s...", s.method, s.path, s.body, r.status, r.body, s.status, s.says)
		}
		if r.status >= 400 && r.fault() == "" {
			v.t.Errorf("%s %s %s: the answer has no fault_message: %s", s.method, s.path, s.body, r.body)
		}
	}
}

// step is a request and what must come back.
type step struct {
	method, path, body string
	status             int
	// says is a part of the answer.
	says string
}

func ok(method, path, body string) step { return step{method, path, body, http.StatusNoContent, ""} }

func get(path, says string) step { return step{"GET", path, "", http.StatusOK, says} }

func refused(method, path, body, says string) step {
	return step{method, path, body, http.StatusBadRequest, says}
}

// Run holds the target to the rules that need no guest.
func Run(t *testing.T, target Target) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			v := start(t, target)
			if r.since != "" && !v.version.AtLeast(mustVersion(r.since)) || r.until != "" && v.version.AtLeast(mustVersion(r.until)) {
				return
			}
			if r.lacked != "" && target.lacks(r.lacked) {
				v.do(refused(r.lackedBy.method, r.lackedBy.path, r.lackedBy.body, "`"+r.lacked+"`"))
				return
			}
			v.do(r.steps...)
		})
	}
	t.Run("what is asked of the process", func(t *testing.T) { runProcessRules(t, target) })
}

func mustVersion(text string) firecracker.Version {
	v, err := firecracker.ParseVersion(text)
	if err != nil {
		panic(err)
	}
	return v
}
