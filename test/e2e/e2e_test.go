//go:build e2e

// Package e2e runs the real CLI against a real daemon and real guests, as
// txtar scripts. The scripts in testdata/life are those that a whole life of a
// VM needs; they run on every VMM, the real firecracker included. Those in
// testdata/host run on the host's own VMM only.
package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/banger-vm/banger/internal/testenv"
)

// The build and the store of images and kernels that the scripts use; both are
// made before. E2E_WAIT is put into $WAIT: a guest in nested emulation needs a
// minute for the default wait.
var (
	buildDir = absolute(or(os.Getenv("E2E_BUILD"), "../../build"))
	storeDir = or(os.Getenv("E2E_STORE"), filepath.Join(os.Getenv("HOME"), ".local/share"))
	waitFlag = os.Getenv("E2E_WAIT")
	// initsDir holds what test/e2e/inits made.
	initsDir = absolute("../../build/test/inits")
)

// world is the internet of the tests.
var world *testenv.World

func TestMain(m *testing.M) {
	status, err := inWorld(m.Run)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(status)
}

// inWorld runs the tests in a world of their own, where what they write into
// the store does not stay.
func inWorld(tests func() int) (int, error) {
	if err := fetchNodeModules(); err != nil {
		fmt.Fprintln(os.Stderr, err) // the scripts that need them fail
	}
	if err := testenv.Enter(); err != nil {
		return 0, err
	}
	var err error
	if world, err = testenv.NewWorld(); err != nil {
		return 0, err
	}
	defer world.Close()
	defer stopHubs()
	scratch, err := os.MkdirTemp("/var/tmp", "banger-e2e")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if err := testenv.Shield(filepath.Join(storeDir, "banger"), scratch); err != nil {
		return 0, err
	}
	return tests(), nil
}

func TestLife(t *testing.T) { run(t, "testdata/life") }

func TestHost(t *testing.T) { run(t, "testdata/host") }

func run(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		TestWork:            os.Getenv("E2E_KEEP") != "",
		Setup:               setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      exits,
			"killdaemon": killDaemon,
			"killvmm":    killVMM,
			"awaitlog":   awaitLog,
			"nothing":    nothingLeft,
			"samehash":   sameFile,
			"background": background,
			"killbg":     killBackground,
			"stopbg":     stopBackground,
			"awaitgone":  awaitGone,
			"deaf":       deaf,
			"other":      otherVersion,
			"execdies":   execDies,
			"unseenend":  unseenEnd,
			"peak":       peak,
			"hostca":     hostCA,
			"atonce":     atOnce,
			"smalldisk":  smallDisk,
			"interrupt":  interruptAt,
			"examples":   buildExamples,
			"example":    runExample,
			"killat":     killAt,
			"killclient": killClientAt,
			"killvmms":   killVMMsAt,
			"killon":     killOn,
			"awaitstate": awaitState,
			"halted":     awaitHalted,
			"agrees":     agrees,
			"unplug":     unplug,
			"sleepyhost": sleepyHost,
			"clockjump":  clockJump,
			"poorkernel": poorKernel,
			"hostslept":  hostSlept,
			"guestclock": guestClock,
			"starve":     starve,

			"fillunwatched": fillUnwatched,
			"serve":         serveFolder,
			"publish":       publishFolder,
			"gatedapt":      gatedApt,
			"checkdisk":     checkDisk,
			"spoil":         spoilBundles,
			"emptystore":    emptyStore,
			"dockerhub":     dockerHub,
			"privatehub":    privateHub,
			"modulesof":     modulesOf,
			"sharedbase":    sharedBase,
		},
	})
}

// networks counts the scripts, so that each daemon has a bridge and an address
// range of its own.
var networks atomic.Int32

func setup(env *testscript.Env) error { return setupFor(env, env.Defer, env.T().Log) }

// setupFor fills the environment; what it made is undone at the end, and what a
// failed script left is told.
func setupFor(env *testscript.Env, atEnd func(func()), tell func(...any)) error {
	n := networks.Add(1)
	runtime, err := os.MkdirTemp("/tmp", "bt") // short: socket paths end at 107 bytes
	if err != nil {
		return err
	}
	for name, value := range map[string]string{
		"HOME":               filepath.Join(env.WorkDir, "home"),
		"PATH":               filepath.Join(buildDir, "bin") + ":" + os.Getenv("PATH"),
		"XDG_DATA_HOME":      storeDir,
		"XDG_STATE_HOME":     filepath.Join(env.WorkDir, "state"),
		"XDG_CACHE_HOME":     filepath.Join(env.WorkDir, "cache"),
		"XDG_RUNTIME_DIR":    runtime,
		"BANGERD_HALT":       filepath.Join(env.WorkDir, "halt"),
		"BANGER_BRIDGE_NAME": fmt.Sprintf("bt%d", n),
		"BANGER_BRIDGE_IP":   fmt.Sprintf("10.77.%d.1", n),
		"BANGER_CIDR":        fmt.Sprintf("10.77.%d.0/24", n),
		"BRIDGE":             fmt.Sprintf("bt%d", n),
		"SERVER":             testenv.ServerName,
		"BUILD":              buildDir,
		"INITS":              initsDir,
		"STORE":              filepath.Join(storeDir, "banger"),
		"MCPCLIENT":          absolute("mcpclient/client.cjs"),
		"ACPCLIENT":          absolute("acpclient/client.cjs"),
		"NODE_PATH":          os.Getenv("NODE_PATH"),
		"WAIT":               or(waitFlag, "--wait=agent"),
		// In software emulation a guest with two processors can die on a busy host
		// (ARCHITECTURE, "One processor boots"). promises takes banger's own default.
		"BANGER_DEFAULT_VCPUS": "1",
	} {
		env.Setenv(name, value)
	}
	for _, name := range []string{"BANGER_VMM", "BANGER_FIRECRACKER_BIN", "BANGER_BOOT_TIMEOUT", "BANGER_DEFAULT_VCPUS", "BANGER_DEFAULT_MEMORY"} {
		if value := os.Getenv(name); value != "" {
			env.Setenv(name, value)
		}
	}
	for _, dir := range []string{"home", "halt"} {
		if err := os.MkdirAll(filepath.Join(env.WorkDir, dir), 0o755); err != nil {
			return err
		}
	}
	vars := env.Vars
	atEnd(func() {
		tidy(vars, tell)
		os.RemoveAll(runtime)
	})
	return nil
}

// tidy ends what a failed script left, and tells what was said of it: a script that
// went well has nothing.
func tidy(env []string, tell func(...any)) {
	defer banger(env, "daemon", "stop").Run()
	list, err := banger(env, "vm", "list", "--json").Output()
	if err != nil {
		return
	}
	var vms []struct{ Name, State, Reason string }
	if json.Unmarshal(list, &vms) != nil {
		return
	}
	for _, v := range vms {
		said, _ := banger(env, "vm", "logs", v.Name).CombinedOutput()
		tell(fmt.Sprintf("VM %s is left, %s (%s). The end of its log:\n%s", v.Name, v.State, v.Reason, lastLines(string(said))))
		banger(env, "vm", "delete", "--force", v.Name).Run()
	}
}

// lastLines is as much of a log as tells a failure's reader how far it came.
func lastLines(said string) string {
	lines := strings.SplitAfter(said, "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "")
}

func banger(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(buildDir, "bin", "banger"), args...)
	cmd.Env = env
	return cmd
}

// exits STATUS PROGRAM ARGS… runs a program and checks its exit status; what it
// printed can be looked at with stdout and stderr.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits status program args…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !asExit(err, &exit) {
			ts.Fatalf("cannot run %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("%s ended with status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func asExit(err error, target **exec.ExitError) bool {
	exit, ok := err.(*exec.ExitError)
	*target = exit
	return ok
}

// ask gives what banger prints as JSON.
func ask(ts *testscript.TestScript, answer any, args ...string) {
	out, err := command(ts, append(append([]string{"banger"}, args...), "--json")).Output()
	if err != nil {
		ts.Fatalf("banger %s: %v\n%s", strings.Join(args, " "), err, stderrOf(err))
	}
	ts.Check(json.Unmarshal(out, answer))
}

func stderrOf(err error) []byte {
	var exit *exec.ExitError
	if asExit(err, &exit) {
		return exit.Stderr
	}
	return nil
}

func environ(ts *testscript.TestScript) []string {
	var env []string
	for _, name := range []string{"HOME", "PATH", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
		"BANGER_BRIDGE_NAME", "BANGER_BRIDGE_IP", "BANGER_CIDR", "BANGER_VMM", "BANGER_FIRECRACKER_BIN", "BANGER_BOOT_TIMEOUT",
		"BANGER_DEFAULT_VCPUS", "BANGER_DEFAULT_MEMORY", "BANGER_TAP_POOL_SIZE", "BANGER_CATALOGS", "BANGERD_HALT"} {
		if value := ts.Getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// killDaemon ends bangerd as kill -9 does, and returns when it is gone.
func killDaemon(ts *testscript.TestScript, neg bool, args []string) {
	var status struct{ PID int }
	ask(ts, &status, "daemon", "status")
	killAndWait(ts, status.PID)
}

// killVMM VM ends a VM's VMM as kill -9 does.
func killVMM(ts *testscript.TestScript, neg bool, args []string) {
	var vm struct{ VMM struct{ PID int } }
	ask(ts, &vm, "vm", "show", args[0])
	killAndWait(ts, vm.VMM.PID)
}

func killAndWait(ts *testscript.TestScript, pid int) {
	signalAndWait(ts, pid, syscall.SIGKILL, 10*time.Second)
}

func signalAndWait(ts *testscript.TestScript, pid int, signal syscall.Signal, limit time.Duration) {
	if pid < 2 {
		ts.Fatalf("no process to kill: %d", pid)
	}
	process, err := os.FindProcess(pid)
	ts.Check(err)
	ts.Check(process.Signal(signal))
	ts.Check(testenv.AwaitEnd(pid, limit))
}

// awaitLog VM PATTERN… follows a VM's log until one line after the other
// matches.
func awaitLog(ts *testscript.TestScript, neg bool, args []string) {
	awaitLines(ts, 0, []string{"banger", "vm", "logs", "-f", args[0]}, args[1:]...)
}

// awaitLines runs a program until, behind the first lines that it prints, one line
// after the other matches. It gives the last one's matches.
func awaitLines(ts *testscript.TestScript, first int, program []string, forms ...string) []string {
	var patterns []*regexp.Regexp
	for _, form := range forms {
		pattern, err := regexp.Compile(form)
		ts.Check(err)
		patterns = append(patterns, pattern)
	}
	cmd := command(ts, program)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer limit.Stop()
	var seen []string
	for lines := bufio.NewScanner(out); lines.Scan(); first-- {
		seen = append(seen, lines.Text())
		if first > 0 {
			continue
		}
		found := patterns[0].FindStringSubmatch(lines.Text())
		if found != nil {
			patterns = patterns[1:]
		}
		if len(patterns) == 0 {
			return found
		}
	}
	ts.Fatalf("%s ended before it said %q: %s\nits last lines:\n%s", strings.Join(program, " "), patterns[0], stderr.String(),
		lastLines(strings.Join(seen, "\n")))
	return nil
}

// nothingLeft stops the daemon and looks for anything of it on the host: links,
// processes, sockets, VM directories.
func nothingLeft(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("banger", "daemon", "stop"))
	links, err := netlink.LinkList()
	ts.Check(err)
	bridge := ts.Getenv("BRIDGE")
	for _, l := range links {
		if strings.HasPrefix(l.Attrs().Name, bridge) && !isDigit(l.Attrs().Name, len(bridge)) {
			ts.Fatalf("link %s is left", l.Attrs().Name)
		}
	}
	for _, dir := range []string{
		filepath.Join(ts.Getenv("XDG_STATE_HOME"), "banger", "vms"),
		filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger", "vm"),
	} {
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			ts.Fatalf("%v", err)
		}
		for _, e := range entries {
			ts.Fatalf("%s is left in %s", e.Name(), dir)
		}
	}
	if left := testenv.ProcessesIn(ts.Getenv("XDG_RUNTIME_DIR")); len(left) > 0 {
		ts.Fatalf("processes are left: %v", left)
	}
}

// isDigit says whether the name goes on with a digit, which is another
// script's bridge: bt1 and bt12.
func isDigit(name string, at int) bool { return len(name) > at && name[at] >= '0' && name[at] <= '9' }

// sameFile A B compares two files of any size.
func sameFile(ts *testscript.TestScript, neg bool, args []string) {
	a, b := ts.MkAbs(args[0]), ts.MkAbs(args[1])
	out, err := exec.Command("cmp", a, b).CombinedOutput()
	if (err == nil) == neg {
		ts.Fatalf("cmp %s %s: %s", args[0], args[1], out)
	}
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return abs
}
