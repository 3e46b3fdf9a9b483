package cli_test

import (
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/testdaemon"
)

// The test binary is banger, and a bangerd that keeps its VMs in memory.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"banger":  func() { os.Exit(cli.Main()) },
		"bangerd": func() { os.Exit(bangerd()) },
	})
}

// quickExit keeps a program with the race detector from sleeping for a second
// before it exits, as it does to let other goroutines report.
const quickExit = "atexit_sleep_ms=0"

// bangerd is the daemon that banger starts. Its environment says how it is:
// TEST_VERSION is the version it claims, TEST_UNFIT a host that runs no VM,
// TEST_FAILURE the reason why it does not start.
func bangerd() int {
	client.KeepReady()
	paths, err := config.FindPaths(os.Getenv, os.Getuid())
	if err == nil && os.Getenv("TEST_FAILURE") != "" {
		err = errors.New(os.Getenv("TEST_FAILURE"))
	}
	if err != nil {
		client.TellReady(err)
		return 1
	}
	os.Remove(paths.Socket())
	listener, err := net.Listen("unix", paths.Socket())
	if err != nil {
		client.TellReady(err)
		return 1
	}
	server, err := newSSHServer(filepath.Join(paths.Config, "id"))
	if err != nil {
		client.TellReady(err)
		return 1
	}
	d := &testdaemon.Daemon{Version: os.Getenv("TEST_VERSION"), Unfit: os.Getenv("TEST_UNFIT") != "", SSH: server.serve, SSHInfo: server.info}
	go http.Serve(listener, d)
	os.Stderr.WriteString("level=INFO msg=listening\n")
	client.TellReady(nil)
	<-d.Ended()
	return 0
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", quickExit)
			env.Setenv("HOME", filepath.Join(env.WorkDir, "home"))
			runtime, err := os.MkdirTemp("", "b") // a short path, for sockets
			if err != nil {
				return err
			}
			env.Setenv("XDG_RUNTIME_DIR", runtime)
			env.Defer(func() {
				stop := exec.Command("banger", "daemon", "stop")
				stop.Env = env.Vars
				if out, err := stop.CombinedOutput(); err != nil {
					t.Errorf("cannot stop the daemon: %v: %s", err, out)
				}
				os.RemoveAll(runtime)
			})
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": checkStatus,
		},
	})
}

// checkStatus runs a program and holds it to an exit status: status 7 banger …
func checkStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status number program args…")
	}
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		got = exited.ProcessState.String()[len("exit status "):]
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != args[0] {
		ts.Fatalf("exit status %s, want %s", got, args[0])
	}
}
