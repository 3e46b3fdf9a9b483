//go:build vmtest

package fcqemu

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/internal/firecracker"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

func TestResetEndsTheMachineWithStatusZero(t *testing.T) {
	for _, verb := range []string{"reboot", "panic"} {
		t.Run(verb, func(t *testing.T) {
			g := boot(t, config(t, verb))
			g.expect("guest: up")
			if status := g.ended(); status != 0 {
				t.Errorf("status %d, want 0", status)
			}
		})
	}
}

func TestPoweroffDoesNotEndTheMachine(t *testing.T) {
	g := boot(t, config(t, "poweroff"))
	g.expect("reboot: Power down")
	<-g.running.off
	g.still()
	for _, do := range []func(context.Context) error{g.Pause, g.Resume} {
		if err := do(context.Background()); err != nil {
			t.Error(err)
		}
	}
	g.still()
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if g.ended() == 0 {
		t.Error("a machine that was closed ended as if its guest had reset it")
	}
}

func TestDrivesAreInOrderWithTheirSizesAndFlags(t *testing.T) {
	cfg := config(t, "drives", "read:vda", "read:vdb", "read:vdc", "read:vdd")
	for i := range 4 {
		d := drive(t, int64(i+1)<<20, fmt.Sprintf("I am number %d", i))
		cfg.Drives = append(cfg.Drives, d)
	}
	cfg.Drives[0].ReadOnly = true
	cfg.Drives[0].File = openFile(t, cfg.Drives[0].File.Path, os.O_RDONLY)
	cfg.Drives[2].Cache = firecracker.CacheUnsafe
	g := boot(t, cfg)
	got := g.until("guest: done", "")
	want := []string{
		`drive: vda sectors=2048 ro=1 cache="write back" discard=0`,
		`drive: vdb sectors=4096 ro=0 cache="write back" discard=0`,
		`drive: vdc sectors=6144 ro=0 cache="write back" discard=0`,
		`drive: vdd sectors=8192 ro=0 cache="write back" discard=0`,
		"read: vda I am number 0", "read: vdb I am number 1", "read: vdc I am number 2", "read: vdd I am number 3",
	}
	got = slices.DeleteFunc(got, func(line string) bool {
		return !strings.HasPrefix(line, "drive:") && !strings.HasPrefix(line, "read:")
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestWritesReachTheFileAndReadOnlyDrivesRefuseThem(t *testing.T) {
	cfg := config(t, "write:vda:written_by_the_guest", "write:vdb:never")
	cfg.Drives = []fcserver.Drive{drive(t, 1<<20, "before"), drive(t, 1<<20, "before")}
	cfg.Drives[1].ReadOnly = true
	cfg.Drives[1].File = openFile(t, cfg.Drives[1].File.Path, os.O_RDONLY)
	g := boot(t, cfg)
	if line := g.expect("write: vda"); line != "write: vda <nil>" {
		t.Errorf("got %q", line)
	}
	if line := g.expect("write: vdb"); !strings.Contains(line, "not permitted") {
		t.Errorf("got %q, want a refusal", line)
	}
	for i, want := range []string{"written_by_the_guest", "before"} {
		got, err := os.ReadFile(cfg.Drives[i].File.Path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(got), want+"\x00") {
			t.Errorf("drive %d begins with %q, want %q", i, got[:32], want)
		}
	}
}

func TestAFailedWriteIsTheGuestsToSee(t *testing.T) {
	cfg := config(t, "write:vda:no_room", "say:still_here")
	cfg.Drives = []fcserver.Drive{{ID: "full", File: openFile(t, fullDisk(t), os.O_RDWR), Cache: firecracker.CacheWriteback}}
	g := boot(t, cfg)
	if line := g.expect("write: vda"); line == "write: vda <nil>" {
		t.Errorf("got %q, want an error", line)
	}
	g.expect("say: still_here")
	if !strings.Contains(g.log.text(), "No space left on device") {
		t.Errorf("the log does not tell of it:\n%s", g.log.text())
	}
}

func TestTheMachineIsWhatWasAskedFor(t *testing.T) {
	cfg := twoProcessors(t, "facts", "random")
	cfg.Machine.MemSizeMiB, cfg.Machine.SMT = 512, true
	cfg.Entropy = &firecracker.Entropy{}
	g := boot(t, cfg)
	facts := g.until("guest: done", "fact: ")
	for _, want := range []string{"cpus 2", "threads 0-1", "rng virtio_rng.0"} {
		if !slices.Contains(facts, want) {
			t.Errorf("%q is missing in %q", want, facts)
		}
	}
	// The clock is the processor's. The kernel calls it tsc-early until its
	// drivers are up, which can be after the guest's init has looked.
	if !slices.ContainsFunc(facts, func(fact string) bool { return fact == "clocksource tsc" || fact == "clocksource tsc-early" }) {
		t.Errorf("the clock is not the TSC in %q", facts)
	}
	var kib int
	if _, err := fmt.Sscanf(facts[0], "MemTotal: %d kB", &kib); err != nil || kib < 440<<10 || kib > 512<<10 {
		t.Errorf("%q is not about 512 MiB", facts[0])
	}
	if !slices.Contains(g.seen, "random: 8 <nil>") {
		t.Errorf("no random bytes: %q", g.seen)
	}
}

// twoProcessors is a guest that boots on one processor and then has two, as
// banger's own: one that boots on two can panic (ARCHITECTURE, "One processor boots").
func twoProcessors(t testing.TB, verbs ...string) fcserver.Config {
	t.Helper()
	cfg := config(t, append([]string{"second"}, verbs...)...)
	cfg.Machine.VCPUCount = 2
	cfg.Cmdline += " maxcpus=1 noreplace-smp"
	return cfg
}

// TestTheDelayLoopIsNotMeasured tells half of the kernel's ticks (250 in
// Debian's): so its delay loop is said to be twice as long as any processor
// would find it.
func TestTheDelayLoopIsNotMeasured(t *testing.T) {
	cfg := twoProcessors(t, "facts")
	cfg.Cmdline += " fcqemu.hz=125"
	g := boot(t, cfg)
	facts := g.until("guest: done", "fact: ")
	_, rest, _ := strings.Cut(strings.Join(facts, "\n"), " lpj=")
	var lpj int
	if _, err := fmt.Sscan(rest, &lpj); err != nil {
		t.Fatalf("no lpj= on the command line in %q", facts)
	}
	want := fmt.Sprintf("bogomips %d.%02d", lpj/(500_000/250), lpj/(5_000/250)%100) // show_cpuinfo in Linux
	if got := facts[len(facts)-2:]; got[0] != want || got[1] != want {
		t.Errorf("the processors have %q, want %q", got, want)
	}
}

func TestManyDevices(t *testing.T) {
	cfg := config(t, "drives")
	for range maxDevices {
		cfg.Drives = append(cfg.Drives, drive(t, 1<<20, ""))
	}
	g := boot(t, cfg)
	if got := g.until("guest: done", "drive: "); len(got) != maxDevices {
		t.Errorf("the guest has %d of %d drives", len(got), maxDevices)
	}
}

func TestTheGuestsClockGoesRight(t *testing.T) {
	const long = 5 * time.Second
	g := boot(t, config(t, "tick"))
	read := func() (guest, host int64) {
		line := g.expect("tick:")
		host = time.Now().UnixNano()
		guest, err := strconv.ParseInt(strings.TrimPrefix(line, "tick: "), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return guest, host
	}
	guest0, host0 := read()
	guest1, host1 := read()
	for host1-host0 < int64(long) {
		guest1, host1 = read()
	}
	ppm := (float64(guest1-guest0)/float64(host1-host0) - 1) * 1e6
	t.Logf("over %v the guest's clock was %.0f ppm off", time.Duration(host1-host0), ppm)
	// What the guest says comes late by up to 100 ms on a busy host.
	if ppm > 20_000 || ppm < -20_000 {
		t.Errorf("the guest's clock is %.0f ppm off", ppm)
	}
}

func TestAFullConsoleDoesNotStopTheGuest(t *testing.T) {
	cfg := config(t, "vsock", "spam")
	cfg.Vsock = &firecracker.Vsock{GuestCID: 3}
	_, nobodyReads, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer nobodyReads.Close()
	m := New(spawn)
	defer m.Close()
	if err := m.Boot(context.Background(), cfg, fcserver.Env{Out: nobodyReads, DialHost: dialUnix("/nonexistent"), Logf: t.Logf}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), bootTime)
	defer cancel()
	conn, err := m.Dial(ctx, 7)
	if err != nil {
		t.Fatal(err)
	}
	echo(t, conn, 1<<20)
	t.Logf("answered %v after boot", time.Since(start))
}

// echo sends n bytes and checks that the same come back, then the end.
func echo(t *testing.T, conn net.Conn, n int) {
	t.Helper()
	start := time.Now()
	sent, got := sha256.New(), sha256.New()
	go func() {
		block := make([]byte, 32<<10)
		for left := n; left > 0; left -= len(block) {
			for i := range block {
				block[i] = byte(left>>15 + i)
			}
			sent.Write(block)
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	back, err := io.Copy(got, conn)
	if err != nil || back != int64(n) {
		t.Fatalf("%d of %d bytes came back: %v", back, n, err)
	}
	if string(sent.Sum(nil)) != string(got.Sum(nil)) {
		t.Error("other bytes came back than were sent")
	}
	t.Logf("%d MiB there and back in %v", n>>20, time.Since(start).Round(time.Millisecond))
}

func TestBalloon(t *testing.T) {
	ctx := context.Background()
	cfg := config(t)
	cfg.Balloon = &firecracker.Balloon{AmountMiB: 16, DeflateOnOOM: true, StatsPollingIntervalS: 1}
	g := boot(t, cfg)
	g.expect("guest: done")
	if err := g.SetBalloon(ctx, 64); err != nil {
		t.Fatal(err)
	}
	late := time.After(bootTime)
	for {
		s, err := g.BalloonStats(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.TargetMiB != 64 || s.TargetPages != 64*256 {
			t.Fatalf("%+v has not the target 64 MiB", s)
		}
		if s.ActualMiB == 64 && s.FreeMemory != nil && *s.FreeMemory > 0 {
			return
		}
		select {
		case <-late:
			t.Fatalf("the balloon stays at %+v", s)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestBootFailsInQEMUsOwnWordsAndMayBeTriedAgain(t *testing.T) {
	cfg := config(t)
	good := cfg.Kernel
	bad := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(bad, []byte("\x7fELF and nothing more"), 0o644); err != nil {
		t.Fatal(err)
	}
	cfg.Kernel = openFile(t, bad, os.O_RDONLY)
	m := New(spawn)
	defer m.Close()
	console, out := pipe(t)
	env := fcserver.Env{Out: out, Logf: t.Logf}
	err := m.Boot(context.Background(), cfg, env)
	if err == nil || !strings.HasPrefix(err.Error(), "cannot start QEMU: qemu") {
		t.Fatalf("got %v, want QEMU's own words", err)
	}
	select {
	case <-m.Done():
		t.Fatal("a boot that failed ended the machine")
	default:
	}
	cfg.Kernel = good
	if err := m.Boot(context.Background(), cfg, env); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 1000)
	go scan(console, lines)
	(&testGuest{Machine: m, t: t, lines: lines}).expect("guest: done")
}

func TestQEMUsEndIsTheMachines(t *testing.T) {
	g := boot(t, config(t))
	g.expect("guest: done")
	if err := g.running.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if status, want := g.ended(), 128+9; status != want { // as a shell tells of a signal
		t.Errorf("status %d, want %d", status, want)
	}
	if !strings.Contains(g.log.text(), "QEMU is gone: signal: killed") {
		t.Errorf("the log does not say so:\n%s", g.log.text())
	}
}
