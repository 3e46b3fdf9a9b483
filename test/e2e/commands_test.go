//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/testenv"
)

// patience bounds every wait for an event; it is never what ends a good test.
const patience = 5 * time.Minute

// deaf puts a banger into PATH whose guests never answer: its agent is one that
// does nothing.
func deaf(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("deaf")
	copyBuild(ts, dir)
	build(ts, "./deafagent", filepath.Join(dir, "lib", "banger", "banger-vsock-agent"), "")
	ts.Setenv("PATH", filepath.Join(dir, "bin")+":"+ts.Getenv("PATH"))
}

// otherversion puts into $OTHER a banger that calls itself another version.
func otherVersion(ts *testscript.TestScript, neg bool, args []string) {
	dir := ts.MkAbs("other")
	copyBuild(ts, dir)
	for _, name := range []string{"banger", "bangerd"} {
		build(ts, "../../cmd/"+name, filepath.Join(dir, "bin", name), "-X github.com/banger-vm/banger/api.Version=other")
	}
	ts.Setenv("OTHER", filepath.Join(dir, "bin", "banger"))
}

// copyBuild gives a build of links, of which some are then replaced.
func copyBuild(ts *testscript.TestScript, dir string) {
	for _, part := range []string{"bin", "lib/banger"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, part), 0o755))
		programs, err := os.ReadDir(filepath.Join(buildDir, part))
		ts.Check(err)
		for _, p := range programs {
			from, to := filepath.Join(buildDir, part, p.Name()), filepath.Join(dir, part, p.Name())
			data, err := os.ReadFile(from)
			ts.Check(err)
			ts.Check(os.WriteFile(to, data, 0o755))
		}
	}
}

func build(ts *testscript.TestScript, pkg, out, ldflags string) {
	ts.Check(os.RemoveAll(out))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", ldflags, "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("cannot build %s: %v\n%s", pkg, err, said)
	}
}

// background NAME PROGRAM ARGS… starts a program and returns when it has
// printed the line "up"; killbg NAME ends it.
func background(ts *testscript.TestScript, neg bool, args []string) {
	cmd := command(ts, args[1:])
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	ts.Defer(func() { cmd.Process.Kill(); cmd.Wait() })
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer limit.Stop()
	awaitUp(ts, bufio.NewScanner(out), args)
	ts.Setenv("BACKGROUND_"+args[0], strconv.Itoa(cmd.Process.Pid))
}

func awaitUp(ts *testscript.TestScript, lines *bufio.Scanner, args []string) {
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == "up" {
			return
		}
	}
	ts.Fatalf("%s ended before it was up", strings.Join(args, " "))
}

// command is a program in the script's environment; banger is the script's own.
func command(ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = environ(ts)
	if !filepath.IsAbs(args[0]) {
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if path := filepath.Join(dir, args[0]); unix.Access(path, unix.X_OK) == nil {
				cmd.Path, cmd.Err = path, nil
				break
			}
		}
	}
	return cmd
}

// killBackground NAME ends a background program as kill -9 does.
func killBackground(ts *testscript.TestScript, neg bool, args []string) {
	killAndWait(ts, backgroundPID(ts, args[0]))
}

// stopBackground NAME ends a background program as Ctrl-C does.
func stopBackground(ts *testscript.TestScript, neg bool, args []string) {
	signalAndWait(ts, backgroundPID(ts, args[0]), syscall.SIGINT, patience)
}

func backgroundPID(ts *testscript.TestScript, name string) int {
	pid, err := strconv.Atoi(ts.Getenv("BACKGROUND_" + name))
	ts.Check(err)
	return pid
}

// awaitGone [VM] waits until a VM, or every one, is deleted: its log has an end then.
func awaitGone(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		var vms []api.VM
		ask(ts, &vms, "vm", "list")
		for _, v := range vms {
			awaitGone(ts, false, []string{v.Name})
		}
		return
	}
	cmd := command(ts, []string{"banger", "vm", "logs", "-f", args[0]})
	limit := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer limit.Stop()
	out, err := cmd.CombinedOutput()
	if err != nil && !strings.Contains(string(out), "there is no VM") {
		ts.Fatalf("cannot await the end of %s: %v\n%s", args[0], err, out)
	}
}

// execDies VM PATTERN kills the daemon while a command runs, and checks what
// the command's client says.
func execDies(ts *testscript.TestScript, neg bool, args []string) {
	cmd := command(ts, []string{"banger", "vm", "exec", "--wait=agent", args[0], "--", "sh", "-c", "echo up; sleep 100000"})
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	awaitUp(ts, bufio.NewScanner(out), args)
	killDaemon(ts, false, nil)
	err = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 125 {
		ts.Fatalf("the command ended with %v, want 125\n%s", err, stderr.String())
	}
	if !regexp.MustCompile(args[1]).MatchString(stderr.String()) {
		ts.Fatalf("the command said %q, want %q", stderr.String(), args[1])
	}
}

// unseenEnd VM kills the daemon and waits until the VM's VMM has ended by
// itself.
func unseenEnd(ts *testscript.TestScript, neg bool, args []string) {
	var vm api.VM
	ask(ts, &vm, "vm", "show", args[0])
	killDaemon(ts, false, nil)
	ts.Check(testenv.AwaitEnd(vm.VMM.PID, patience))
}

// peak MEGABYTES checks how much memory the daemon has needed at most.
func peak(ts *testscript.TestScript, neg bool, args []string) {
	most, err := strconv.Atoi(args[0])
	ts.Check(err)
	var status struct{ PID int }
	ask(ts, &status, "daemon", "status")
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", status.PID))
	ts.Check(err)
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(data)
	kib, err := strconv.Atoi(string(m[1]))
	ts.Check(err)
	if kib > most<<10 {
		ts.Fatalf("bangerd took %d MiB at its peak, want at most %d", kib>>10, most)
	}
}

// hostCA FILE gives the host, as this namespace sees it, a CA certificate of
// its own, and writes it to FILE.
func hostCA(ts *testscript.TestScript, neg bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate Test CA"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	ts.Check(err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	ts.Check(trust("corporate.crt", text))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o644))
}

// anchors is where the host has CA certificates of its own; here it is a
// filesystem of the tests.
const anchors = "/usr/local/share/ca-certificates"

var mountAnchors = sync.OnceValue(func() error {
	if err := os.MkdirAll(anchors, 0o755); err != nil {
		return err
	}
	return unix.Mount("tmpfs", anchors, "tmpfs", 0, "")
})

// trust makes the host, and so its guests, trust a certificate.
func trust(name string, cert []byte) error {
	if err := mountAnchors(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(anchors, name), cert, 0o644)
}

// smallDisk DIR MEGABYTES makes DIR a filesystem of its own that is soon full.
func smallDisk(ts *testscript.TestScript, neg bool, args []string) {
	dir := args[0]
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+args[1]+"m"))
	ts.Defer(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// atOnce N PROGRAM ARGS… runs a program N times at once; all must succeed.
func atOnce(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var all errgroup.Group
	for range n {
		cmd := command(ts, args[1:])
		all.Go(func() error {
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", strings.Join(args[1:], " "), err, out)
			}
			return nil
		})
	}
	ts.Check(all.Wait())
}
