//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// sleepyHost FIFO gives the daemon that starts next a host that sleeps when
// hostslept says so.
func sleepyHost(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(unix.Mkfifo(ts.MkAbs(args[0]), 0o600))
	ts.Setenv("BANGERD_CLOCK", ts.MkAbs(args[0]))
}

// clockJump FILE gives the program that shifts a guest's clock and waits for
// its next jump: it is built, where E2E_CLOCKJUMP does not name one.
func clockJump(ts *testscript.TestScript, neg bool, args []string) {
	if built := os.Getenv("E2E_CLOCKJUMP"); built != "" {
		program, err := os.ReadFile(built)
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), program, 0o755))
		return
	}
	build(ts, "./clockjump", ts.MkAbs(args[0]), "")
}

// poorKernel FILE builds the network's test for a kernel that lacks something.
func poorKernel(ts *testscript.TestScript, neg bool, args []string) {
	cmd := exec.Command("go", "test", "-c", "-tags", "hosttest,poorkernel", "-ldflags", "-s -w", "-o", ts.MkAbs(args[0]), "../../internal/network")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("cannot build the network's test: %v\n%s", err, said)
	}
}

// hostSlept DURATION VM gives bangerd the event of a suspend, and checks that
// within 2 seconds the kernel of the guest tells of a clock that was set, and
// that the clock is right then. The guest has clockjump as /jump.
func hostSlept(ts *testscript.TestScript, neg bool, args []string) {
	slept, name := args[0], args[1]
	cmd := command(ts, []string{"banger", "vm", "exec", "--wait=agent", name, "--", "/jump"})
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer limit.Stop()
	lines := bufio.NewScanner(out)
	awaitUp(ts, lines, cmd.Args)
	begun := time.Now()
	ts.Check(os.WriteFile(ts.Getenv("BANGERD_CLOCK"), []byte(slept+"\n"), 0))
	lines.Scan()
	took := time.Since(begun)
	ts.Check(cmd.Wait())
	if lines.Text() != "-1m0s" {
		ts.Fatalf("the guest's clock was set by %q, and was a minute fast", lines.Text())
	}
	if took > 2*time.Second {
		ts.Fatalf("the guest's clock was right after %v", took)
	}
	ts.Logf("right after %v", took)
	checkGuestClock(ts, name, 0)
}

// guestClock VM DURATION checks by how much a guest's clock is ahead of the
// host's, give or take two seconds.
func guestClock(ts *testscript.TestScript, neg bool, args []string) {
	want, err := time.ParseDuration(args[1])
	ts.Check(err)
	checkGuestClock(ts, args[0], want)
}

func checkGuestClock(ts *testscript.TestScript, name string, want time.Duration) {
	const slack = 2 * time.Second
	if least, most := guestAhead(ts, name); want < least-slack || want > most+slack {
		ts.Fatalf("the guest's clock is ahead by %v to %v, not by %v", least, most, want)
	}
}

// guestAhead asks the guest for its time, which it tells at some moment between
// the question and the answer.
func guestAhead(ts *testscript.TestScript, name string) (least, most time.Duration) {
	before := time.Now()
	out, err := command(ts, []string{"banger", "vm", "exec", "--wait=agent", name, "--", "date", "+%s.%N"}).Output()
	ts.Check(err)
	after := time.Now()
	seconds, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	ts.Check(err)
	guest := time.Unix(0, int64(seconds*1e9))
	return guest.Sub(after), guest.Sub(before)
}

// starve VM MEGABYTES lets the VMM of a VM, and what it has started, take no
// more memory than that from now on.
func starve(ts *testscript.TestScript, neg bool, args []string) {
	most, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	limit, err := testenv.LimitMemory(fmt.Sprintf("banger-e2e-%d", os.Getpid()), most<<20)
	ts.Check(err)
	ts.Defer(func() { ts.Check(limit.Close()) })
	var vm api.VM
	ask(ts, &vm, "vm", "show", args[0])
	for _, line := range testenv.ProcessesIn(filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm", vm.ID)) {
		pid, _, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(pid)
		ts.Check(err)
		ts.Check(limit.Add(n))
	}
}

// fillUnwatched VM HOG CLAIMS kills the daemon, fills the filesystem of HOG, and
// reads the guest's console in the daemon's place until the guest says that its
// writer has failed. What the writer claims to have synced goes to CLAIMS, as
// sha256sum -c reads it.
func fillUnwatched(ts *testscript.TestScript, neg bool, args []string) {
	var vm api.VM
	ask(ts, &vm, "vm", "show", args[0])
	console, err := os.OpenFile(filepath.Join(ts.Getenv("XDG_RUNTIME_DIR"), "banger/vm", vm.ID, "console"), os.O_RDWR|unix.O_NONBLOCK, 0)
	ts.Check(err)
	defer console.Close()
	ts.Check(console.SetReadDeadline(time.Now().Add(patience)))
	killDaemon(ts, false, nil)
	lines := bufio.NewScanner(console)
	claims := claimsIn(ts, filepath.Join(ts.Getenv("XDG_STATE_HOME"), "banger/vms", vm.ID, "log.ndjson"))
	claims += nextClaim(ts, lines) + "\n" // it writes
	hog, err := os.Create(args[1])
	ts.Check(err)
	defer hog.Close()
	for block := make([]byte, 1<<20); err == nil; {
		_, err = hog.Write(block)
	}
	if !errors.Is(err, unix.ENOSPC) {
		ts.Fatalf("cannot fill the disk: %v", err)
	}
	for claim := nextClaim(ts, lines); claim != "failed"; claim = nextClaim(ts, lines) {
		claims += claim + "\n"
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(claims), 0o600))
}

// claimsIn is what the daemon has heard of the writer before it died.
func claimsIn(ts *testscript.TestScript, log string) (claims string) {
	data, err := os.ReadFile(log)
	ts.Check(err)
	for line := range bytes.Lines(data) {
		var said api.LogLine
		if json.Unmarshal(line, &said) == nil && said.Source == "console" {
			if _, claim, ok := strings.Cut(said.Text, "writer: "); ok {
				claims += claim + "\n"
			}
		}
	}
	return claims
}

// nextClaim is the next thing that the guest's writer says on its console.
func nextClaim(ts *testscript.TestScript, lines *bufio.Scanner) string {
	for lines.Scan() {
		if _, claim, ok := strings.Cut(strings.TrimSpace(lines.Text()), "writer: "); ok {
			return claim
		}
	}
	ts.Fatalf("the guest's console has no more: %v", lines.Err())
	return ""
}
