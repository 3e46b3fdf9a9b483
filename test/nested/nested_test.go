//go:build nested

// Package nested runs the conformance suite and the end-to-end scripts of a
// whole life on the real firecracker.
//
// Where KVM can run firecracker they run directly. Elsewhere they run inside a
// banger guest, which fcqemu emulates in software: its processor has SVM and its
// kernel the module kvm-amd, so that there is a /dev/kvm. The guest is booted by
// hand out of banger's own packages and has two drives more than any other:
// one with the store of images and kernels, and one with this build, the
// firecracker binary and the test programs. The machine has one processor, and
// the tests in it run one guest at a time: with two processors a kernel can
// panic while KVM patches its code, and two guests disturb each other.
//
// Each test that runs in there is a subtest here.
package nested

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/vmm"
)

// buildDir is what make build has built, and root the repository.
var (
	root     = absolute("../..")
	buildDir = absolute(or(os.Getenv("E2E_BUILD"), "../../build"))
)

func absolute(path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		panic(err)
	}
	return abs
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// suite is a test program that runs where firecracker does.
type suite struct {
	name    string // of the subtest here
	pkg     string // the package, from the repository's root
	tags    string
	args    []string
	timeout time.Duration
}

var suites = []suite{
	{name: "conformance", pkg: "./test/nested/conformance", tags: "nested", timeout: 10 * time.Minute},
	{name: "oom", pkg: "./internal/oom", tags: "hosttest", args: []string{"-test.run=^TestCause"}, timeout: 5 * time.Minute}, // cgroups of version 2 there
	{name: "life", pkg: "./test/e2e", tags: "e2e", args: []string{"-test.run=^TestLife$"}, timeout: 20 * time.Minute},
}

func TestFirecracker(t *testing.T) { inside(t, suites) }

// inside runs suites where firecracker does.
func inside(t *testing.T, suites []suite) {
	kit := pack(t, suites...)
	place := somewhere(t, kit)
	t.Run("version", func(t *testing.T) {
		out := place.output(t, kit.in(place, "firecracker"), "--version")
		t.Logf("the real %s", firstLine(out))
	})
	for _, s := range suites {
		var err error
		t.Run(s.name, func(t *testing.T) { err = s.run(t, place, kit) })
		if !errors.Is(err, errDead) {
			continue
		}
		// The emulated machine around firecracker is no part of what this suite
		// tests. A hang in what it does test leaves the machine alive, and is
		// never tried again.
		t.Logf("%s: %v\n%s\nonce more, in another machine", s.name, err, place.why())
		place = somewhere(t, kit)
		t.Run(s.name+" again", func(t *testing.T) {
			if err := s.run(t, place, kit); err != nil {
				t.Error(err)
			}
		})
	}
}

// errDead is wrapped by the error of a suite whose machine no longer answers.
var errDead = errors.New("the machine no longer answers")

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// place is where firecracker runs.
type place interface {
	// kit is where the packed files are.
	kit() string
	// data is the XDG_DATA_HOME with banger's store.
	data() string
	// run runs a program and gives its exit status; its output goes to out.
	run(ctx context.Context, out io.Writer, job job) (int, error)
	// output runs a program that must succeed.
	output(t testing.TB, argv ...string) string
	// watch gives a context that ends, with the cause, when the place is no
	// longer alive; rest ends the watch.
	watch(ctx context.Context) (alive context.Context, rest func())
	// why tells what the place knows of a failure.
	why() string
}

// job is a program to run in a place.
type job struct {
	argv []string
	env  map[string]string
	dir  string
}

// somewhere is this host where it can run firecracker, else a guest.
func somewhere(t testing.TB, kit *kit) place {
	choice, err := vmm.Choose(vmm.Options{Want: vmm.Auto, FirecrackerBin: kit.files["firecracker"], Companions: filepath.Join(buildDir, "lib/banger")})
	if err != nil {
		t.Fatal(err)
	}
	if choice.Name == vmm.Firecracker {
		t.Logf("on this host: %s", choice.Why)
		return newHere(t, kit)
	}
	t.Logf("in a guest on fcqemu: %s", choice.Why)
	return boot(t, kit)
}

// env is what banger is told in there.
func environment(p place, k *kit) map[string]string {
	return map[string]string{
		"E2E_BUILD":              filepath.Join(p.kit(), "build"),
		"E2E_STORE":              p.data(),
		"FIRECRACKER_BIN":        k.in(p, "firecracker"),
		"BANGER_VMM":             vmm.Firecracker,
		"BANGER_FIRECRACKER_BIN": k.in(p, "firecracker"),
		"BANGER_DEFAULT_VCPUS":   "1",
		"BANGER_DEFAULT_MEMORY":  "1GiB",
		"BANGER_BOOT_TIMEOUT":    "15m",
		"BANGER_TEST_KERNEL":     filepath.Join(p.data(), "banger/kernels", kernelName),
		"BANGER_TEST_INITRAMFS":  k.in(p, "initramfs"),
		"BANGER_TEST_GUEST":      k.in(p, "testguest"),
		"E2E_CLOCKJUMP":          k.in(p, "clockjump"),
		"TMPDIR":                 "/tmp",
	}
}

// run runs the suite's program and makes a subtest of each of its tests. The
// error is that the machine died; everything else fails the test.
func (s suite) run(t *testing.T, p place, k *kit) error {
	ctx, cancel := context.WithTimeout(t.Context(), s.timeout+time.Minute)
	defer cancel()
	ctx, rest := p.watch(ctx)
	defer rest()
	argv := append([]string{k.in(p, s.program()), "-test.v=test2json", "-test.parallel=1", "-test.timeout=" + s.timeout.String()}, s.args...)
	j := job{argv: argv, env: environment(p, k), dir: filepath.Dir(k.in(p, s.program()))}
	report := newReport(t)
	var status int
	var err error
	report.of(func(out io.Writer) { status, err = p.run(ctx, out, j) })
	if errors.Is(err, errDead) {
		return fmt.Errorf("%w\n%s", err, report.unended())
	}
	if err != nil {
		t.Fatalf("the suite did not end: %v\n%s%s", err, report.unended(), p.why())
	}
	if status != 0 && !t.Failed() {
		t.Errorf("the suite ended with status %d, but no test of it has failed", status)
	}
	if report.passed == 0 && !t.Failed() {
		t.Error("no test ran")
	}
	if t.Failed() {
		t.Log(p.why())
	}
	return nil
}

// program is the name of the suite's program in the kit.
func (s suite) program() string { return filepath.Join(s.name, "suite.test") }

// build compiles the suite's program without any library of this host.
func (s suite) build(t testing.TB, dir string) string {
	t.Helper()
	path := filepath.Join(dir, s.name+".test")
	goBuild(t, "test", "-c", "-tags", s.tags, "-ldflags=-s -w", "-o", path, s.pkg)
	return path
}

func goBuild(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
