package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/testdaemon"
)

// The test binary is also the daemon that the tests start: this variable tells
// it how to behave.
const daemonEnv = "BANGER_TEST_DAEMON"

func TestMain(m *testing.M) {
	if how := os.Getenv(daemonEnv); how != "" {
		os.Exit(daemon(how, os.Args[1]))
	}
	if name := os.Getenv("BANGER_CLIENT_EXAMPLE"); name != "" {
		examples[name]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func daemon(how, socket string) int {
	client.KeepReady()
	fmt.Println("daemon starts")
	switch how {
	case "dies":
		fmt.Println("the bridge fell down")
		return 3
	case "refuses":
		client.TellReady(&api.Error{Kind: api.KindHost, Message: "banger needs root", Hint: "use sudo"})
		return 1
	}
	os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		client.TellReady(err)
		return 1
	}
	var d testdaemon.Daemon
	go http.Serve(listener, &d)
	client.TellReady(nil)
	<-d.Ended()
	return 0
}

// starter is a client that starts the test binary as its daemon.
func starter(t *testing.T, how string) (c *client.Client, log string) {
	t.Helper()
	t.Setenv(daemonEnv, how)
	dir := shortDir(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log = filepath.Join(dir, "state", "bangerd.log")
	runtime := filepath.Join(dir, "run")
	c = client.New(client.Options{Runtime: runtime, Log: log, Daemon: []string{self, filepath.Join(runtime, client.SocketName)}})
	t.Cleanup(func() {
		if err := c.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		c.Close()
	})
	return c, log
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "b")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// serve gives a client of a daemon that lives in the test.
func serve(t *testing.T, handler http.Handler) *client.Client {
	t.Helper()
	dir := shortDir(t)
	listener, err := net.Listen("unix", filepath.Join(dir, client.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	c := client.New(client.Options{Runtime: dir})
	t.Cleanup(c.Close)
	return c
}

func apiError(t *testing.T, err error) *api.Error {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want an api.Error", err)
	}
	return e
}

func TestTenCallsStartOneDaemon(t *testing.T) {
	first, log := starter(t, "works")
	pids := make([]int, 10)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() {
			status, err := first.AnyVersion().Status(t.Context())
			if err != nil {
				t.Error(err)
			}
			pids[i] = status.PID
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == os.Getpid() || pid == 0 {
			t.Errorf("daemons with pids %v", pids)
			break
		}
	}
	if sid, err := syscall.Getpgid(pids[0]); err != nil || sid != pids[0] {
		t.Errorf("the daemon is in group %d (%v), want its own session", sid, err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), "daemon starts"); n != 1 {
		t.Errorf("%d daemons were started", n)
	}
}

func TestShutdownWaitsForTheEndAndTheNextCallStartsAnew(t *testing.T) {
	c, _ := starter(t, "works")
	before, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	// This process is the daemon's parent, and the client has reaped it or is
	// about to: a zombie at most.
	if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", before.PID)); err == nil && !strings.Contains(string(state), ") Z") {
		t.Errorf("the daemon still runs: %s", state)
	}
	after, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if after.PID == before.PID {
		t.Error("the old daemon answers")
	}
}

func TestShutdownOfNothing(t *testing.T) {
	c := client.New(client.Options{Runtime: filepath.Join(shortDir(t), "none")})
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestFailedStartTellsWhy(t *testing.T) {
	c, _ := starter(t, "dies")
	_, err := c.Status(t.Context())
	if e := apiError(t, err); !strings.Contains(e.Message, "exit status 3") || !strings.Contains(e.Message, "the bridge fell down") {
		t.Errorf("got %q", e.Message)
	}
	c, _ = starter(t, "refuses")
	_, err = c.Status(t.Context())
	if e := apiError(t, err); e.Message != "banger needs root" || e.Hint != "use sudo" || e.Kind != api.KindHost {
		t.Errorf("got %+v", e)
	}
	c = client.New(client.Options{Runtime: shortDir(t), Log: filepath.Join(shortDir(t), "log"), Daemon: []string{"/nonexistent/bangerd"}})
	_, err = c.Status(t.Context())
	if e := apiError(t, err); !strings.Contains(e.Message, "cannot start bangerd") {
		t.Errorf("got %q", e.Message)
	}
}

func TestDeadSocketIsReplaced(t *testing.T) {
	c, _ := starter(t, "works")
	if err := os.Mkdir(filepath.Dir(c.Socket()), 0o700); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", c.Socket())
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	listener.Close()
	if _, err := c.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestWhatStandsInTheWay(t *testing.T) {
	tests := []struct {
		name    string
		prepare func(t *testing.T, dir string)
		message string
		kind    api.Kind
	}{
		{"nothing runs", func(*testing.T, string) {}, "bangerd is not running", api.KindNotFound},
		{"open directory", func(t *testing.T, dir string) { chmod(t, dir, 0o755) }, "other users may enter", api.KindForbidden},
		{"file for a directory", func(t *testing.T, dir string) {
			os.Remove(dir)
			write(t, dir)
		}, "is not a directory", api.KindForbidden},
		{"link for a directory", func(t *testing.T, dir string) {
			os.Rename(dir, dir+".real")
			os.Symlink(dir+".real", dir)
		}, "is not a directory", api.KindForbidden},
		{"file for a socket", func(t *testing.T, dir string) { write(t, filepath.Join(dir, client.SocketName)) }, "is not a socket", api.KindForbidden},
		{"another program", func(t *testing.T, dir string) { listen(t, dir, http.NotFoundHandler()) }, "does not answer like bangerd", api.KindHost},
		{"old version", func(t *testing.T, dir string) { listen(t, dir, &testdaemon.Daemon{Version: "v0"}) }, "bangerd is version v0, this banger is dev", api.KindWrongState},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "run")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			c.prepare(t, dir)
			_, err := client.New(client.Options{Runtime: dir}).VMs(t.Context())
			e := apiError(t, err)
			if !strings.Contains(e.Message, c.message) || e.Kind != c.kind || e.Hint == "" {
				t.Errorf("got %+v, want %s: %q", e, c.kind, c.message)
			}
		})
	}
}

func TestLongSocketPath(t *testing.T) {
	dir := filepath.Join(shortDir(t), strings.Repeat("x", 110))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := client.New(client.Options{Runtime: dir}).VMs(t.Context())
	if e := apiError(t, err); !strings.Contains(e.Message, "path is too long") {
		t.Errorf("got %q", e.Message)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func listen(t *testing.T, dir string, handler http.Handler) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(dir, client.SocketName))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
}

func TestAnyVersionStillShutsDown(t *testing.T) {
	c := serve(t, &testdaemon.Daemon{Version: "v0"})
	if status, err := c.AnyVersion().Status(t.Context()); err != nil || status.Version != "v0" {
		t.Errorf("got %+v, %v", status, err)
	}
}

func TestLifeOfAVM(t *testing.T) {
	var d testdaemon.Daemon
	c := serve(t, &d)
	var steps []string
	report := func(s api.StepEvent) { steps = append(steps, s.Name) }
	created, err := c.Create(t.Context(), api.CreateRequest{Name: "a", NoStart: true}, report)
	if err != nil {
		t.Fatal(err)
	}
	created.Close()
	if created.VM.Name != "a" || created.VM.State != api.StateCreated || strings.Join(steps, " ") != "disk image" {
		t.Errorf("got %+v after %v", created.VM, steps)
	}
	if _, err := c.Create(t.Context(), api.CreateRequest{Name: "a"}, nil); apiError(t, err).Kind != api.KindExists {
		t.Errorf("a second one of the name: %v", err)
	}
	if v, err := c.StartVM(t.Context(), "a", api.StartRequest{}, nil); err != nil || v.State != api.StateRunning {
		t.Errorf("start: %+v, %v", v, err)
	}
	if v, err := c.StopVM(t.Context(), "a", api.StopRequest{}, nil); err != nil || v.State != api.StateStopped {
		t.Errorf("stop: %+v, %v", v, err)
	}
	if pruned, err := c.Prune(t.Context(), nil); err != nil || strings.Join(pruned, " ") != "a" {
		t.Errorf("prune: %v, %v", pruned, err)
	}
	if _, err := c.VM(t.Context(), "a"); apiError(t, err).Kind != api.KindNotFound {
		t.Errorf("show of a pruned one: %v", err)
	}
	if _, err := c.VM(t.Context(), "a/../x y"); apiError(t, err).Message != `there is no VM "a/../x y"` {
		t.Errorf("a name is not kept whole: %v", err)
	}
}

func TestCloseEndsTheSession(t *testing.T) {
	gone := make(chan struct{})
	var d testdaemon.Daemon
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.ServeHTTP(w, r)
		if r.Method == http.MethodPost {
			close(gone)
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	created, err := c.Create(ctx, api.CreateRequest{Name: "brief", Remove: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // a Ctrl-C after the creation is not the session's end
	if d.Names() != "brief" {
		t.Errorf("VMs in the session: %q", d.Names())
	}
	created.Close()
	<-gone
	if d.Names() != "" {
		t.Errorf("VMs after the session: %q", d.Names())
	}
}

func TestCanceledCreate(t *testing.T) {
	begun := make(chan struct{})
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(api.VersionHeader, api.Version)
		w.(http.Flusher).Flush()
		close(begun)
		<-r.Context().Done()
	}))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := c.Create(ctx, api.CreateRequest{}, nil)
	if e := apiError(t, err); e.Kind != api.KindCanceled {
		t.Errorf("got %+v", e)
	}
}

func TestDaemonThatEndsInTheMiddle(t *testing.T) {
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.VersionHeader, api.Version)
		fmt.Fprintln(w, `{"step":{"name":"disk"}}`)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	_, err := c.StartVM(t.Context(), "a", api.StartRequest{}, nil)
	if e := apiError(t, err); e.Kind != api.KindInternal || !strings.Contains(e.Message, "broke") {
		t.Errorf("got %+v", e)
	}
}

// running gives a client with one running VM, "a".
func running(t *testing.T) *client.Client {
	t.Helper()
	c := serve(t, &testdaemon.Daemon{})
	if _, err := c.Create(t.Context(), api.CreateRequest{Name: "a"}, nil); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestExec(t *testing.T) {
	c := running(t)
	tests := []struct {
		name           string
		argv           []string
		stdin          string
		stdout, stderr string
		status         int
		kind           api.Kind
	}{
		{"streams", []string{"sh", "-c", "cat; echo err >&2; exit 7"}, "in", "in", "err\n", 7, ""},
		{"signal", []string{"sh", "-c", "kill -9 $$"}, "", "", "", 137, ""},
		{"unread input", []string{"true"}, strings.Repeat("x", 4<<20), "", "", 0, ""},
		{"no program", []string{"nosuchprogram"}, "", "", "", 0, api.KindNoProgram},
		{"no executable", []string{"/etc/passwd"}, "", "", "", 0, api.KindCannotExec},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			command, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: test.argv})
			if err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			status, err := command.Run(t.Context(), strings.NewReader(test.stdin), &stdout, &stderr)
			if test.kind != "" {
				if e := apiError(t, err); e.Kind != test.kind {
					t.Errorf("got %+v", e)
				}
				return
			}
			if err != nil || status != test.status || stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("status %d, stdout %q, stderr %q, %v", status, stdout.String(), stderr.String(), err)
			}
		})
	}
}

func TestExecBytesArriveWholeAndInOrder(t *testing.T) {
	c := running(t)
	command, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: []string{"cat"}})
	if err != nil {
		t.Fatal(err)
	}
	sent, got := sha256.New(), sha256.New()
	const size = 32 << 20
	stdin := io.TeeReader(io.LimitReader(counter{new(uint32)}, size), sent)
	status, err := command.Run(t.Context(), stdin, got, io.Discard)
	if err != nil || status != 0 {
		t.Fatal(status, err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

// counter reads as bytes that never repeat at a block's distance.
type counter struct{ n *uint32 }

func (c counter) Read(p []byte) (int, error) {
	for i := range p {
		*c.n++
		p[i] = byte(*c.n * 2654435761 >> 24)
	}
	return len(p), nil
}

func TestSignalAndResizeReachTheProgram(t *testing.T) {
	c := running(t)
	command, err := c.Exec(t.Context(), "a", api.ExecRequest{
		Argv: []string{"sh", "-c", `trap 'stty size; exit 5' USR1; echo up; while :; do sleep 0.05; done`}, TTY: true, Rows: 10, Cols: 20})
	if err != nil {
		t.Fatal(err)
	}
	stdout, writer := io.Pipe()
	result := make(chan int, 1)
	go func() {
		status, _ := command.Run(t.Context(), nil, writer, io.Discard)
		writer.Close()
		result <- status
	}()
	buf := make([]byte, 2)
	if _, err := io.ReadFull(stdout, buf); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(command.Resize(33, 44), command.Signal(syscall.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(stdout)
	if err != nil {
		t.Fatal(err)
	}
	if status := <-result; status != 5 || !strings.Contains(string(rest), "33 44") {
		t.Errorf("status %d, output %q", status, rest)
	}
}

func TestExecEnds(t *testing.T) {
	c := running(t)
	t.Run("with its context", func(t *testing.T) {
		command, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: []string{"sleep", "1000"}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = command.Run(ctx, nil, io.Discard, io.Discard)
		if e := apiError(t, err); e.Kind != api.KindCanceled {
			t.Errorf("got %+v", e)
		}
	})
	t.Run("with a reader that fails", func(t *testing.T) {
		command, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: []string{"echo", "hi"}})
		if err != nil {
			t.Fatal(err)
		}
		full := errors.New("disk full")
		if _, err := command.Run(t.Context(), nil, failing{full}, io.Discard); !errors.Is(err, full) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("of a stopped VM is refused", func(t *testing.T) {
		if _, err := c.StopVM(t.Context(), "a", api.StopRequest{}, nil); err != nil {
			t.Fatal(err)
		}
		_, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: []string{"true"}})
		if e := apiError(t, err); e.Kind != api.KindWrongState || !strings.Contains(e.Hint, "vm start a") {
			t.Errorf("got %+v", e)
		}
	})
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestExecOfADaemonThatDies(t *testing.T) {
	c, _ := starter(t, "works")
	if _, err := c.Create(t.Context(), api.CreateRequest{Name: "a"}, nil); err != nil {
		t.Fatal(err)
	}
	status, err := c.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	command, err := c.Exec(t.Context(), "a", api.ExecRequest{Argv: []string{"sh", "-c", "echo up; exec sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	stdout := writerFunc(func(p []byte) (int, error) {
		return len(p), syscall.Kill(status.PID, syscall.SIGKILL)
	})
	_, err = command.Run(t.Context(), nil, stdout, io.Discard)
	if !errors.Is(err, client.ErrLost) || apiError(t, err).Kind != api.KindInternal {
		t.Errorf("got %v", err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestSSHCarriesBytesAndEnds(t *testing.T) {
	c := running(t)
	stream, err := c.SSH(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Write([]byte("SSH-2.0-x\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if back, err := io.ReadAll(stream); err != nil || string(back) != "SSH-2.0-x\r\n" {
		t.Errorf("got %q, %v", back, err)
	}
}

func TestLogs(t *testing.T) {
	c := running(t)
	ctx, cancel := context.WithCancel(t.Context())
	var texts []string
	err := c.Logs(ctx, "a", true, func(l api.LogLine) error {
		texts = append(texts, l.Text)
		if len(texts) == 2 {
			cancel()
		}
		return nil
	})
	if e := apiError(t, err); e.Kind != api.KindCanceled || texts[0] != "Linux version 6.12" {
		t.Errorf("got %+v after %q", e, texts)
	}
}

func TestImagesAndKernels(t *testing.T) {
	c := serve(t, &testdaemon.Daemon{})
	if _, err := c.RegisterImage(t.Context(), api.RegisterImage{Name: "base", Rootfs: "/r.ext4"}); err != nil {
		t.Fatal(err)
	}
	if image, err := c.Image(t.Context(), "base"); err != nil || image.Rootfs != "/r.ext4" {
		t.Errorf("got %+v, %v", image, err)
	}
	if err := c.DeleteImage(t.Context(), "base"); err != nil {
		t.Error(err)
	}
	if images, err := c.Images(t.Context()); err != nil || len(images) != 1 {
		t.Errorf("got %v, %v", images, err)
	}
	if kernels, err := c.Kernels(t.Context()); err != nil || len(kernels) != 1 {
		t.Errorf("got %v, %v", kernels, err)
	}
	if d, err := c.Doctor(t.Context()); err != nil || !d.OK {
		t.Errorf("got %+v, %v", d, err)
	}
	if f, err := c.DoctorFix(t.Context()); err != nil || len(f.Done) != 1 || !f.Doctor.OK {
		t.Errorf("got %+v, %v", f, err)
	}
}

// TestDefaultIsWhereTheCommandLooks compares with banger's own settings.
func TestDefaultIsWhereTheCommandLooks(t *testing.T) {
	for _, env := range []map[string]string{{}, {"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/s"}, {"XDG_RUNTIME_DIR": "relative"}} {
		t.Setenv("HOME", "/home/you")
		t.Setenv("XDG_RUNTIME_DIR", env["XDG_RUNTIME_DIR"])
		t.Setenv("XDG_STATE_HOME", env["XDG_STATE_HOME"])
		c, err := client.Default()
		if err != nil {
			t.Fatal(err)
		}
		paths, err := config.FindPaths(os.Getenv, os.Getuid())
		if err != nil || c.Socket() != paths.Socket() {
			t.Errorf("%s, want %s, %v", c.Socket(), paths.Socket(), err)
		}
	}
}
