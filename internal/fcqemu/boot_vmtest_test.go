//go:build vmtest

package fcqemu

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/banger-vm/banger/internal/fcqemu/tsc"
	"github.com/banger-vm/banger/internal/firecracker/fcserver"
)

// bootLimit is when a guest counts as hung.
const bootLimit = time.Minute

// BenchmarkBoot boots guests through the API, one after another, and times
// InstanceStart to the guest's first process. Each must come up, and must end
// with status 0 when it resets: "40 of 40" is what `-benchtime 40x` has to
// say. BenchmarkPlainQEMU is the floor to compare it with.
func BenchmarkBoot(b *testing.B) {
	up := 0
	for range b.N {
		b.StopTimer()
		v := startVMM(b)
		v.configure("")
		b.StartTimer()
		if err := v.InstanceStart(context.Background()); err != nil {
			b.Errorf("cannot start the guest: %v", err)
			continue
		}
		arrived := v.arrives("guest: up", bootLimit)
		b.StopTimer()
		if arrived {
			v.say("reboot")
		}
		if arrived && v.status() == 0 {
			up++
		}
		_ = v.cmd.Process.Kill()
		<-v.done
		b.StartTimer()
	}
	b.Logf("%d of %d boots came up and reset", up, b.N)
	if up != b.N {
		b.Fail()
	}
}

// arrives says whether the console brings text in time.
func (g *testGuest) arrives(text string, limit time.Duration) bool {
	late := time.After(limit)
	for {
		select {
		case line, ok := <-g.lines:
			g.seen = append(g.seen, line)
			if !ok || strings.Contains(line, text) {
				return ok
			}
		case <-late:
			return false
		}
	}
}

// BenchmarkPlainQEMU runs the same QEMU command by hand, without fcqemu.
func BenchmarkPlainQEMU(b *testing.B) {
	path, err := program(programs)
	if err != nil {
		b.Fatal(err)
	}
	khz, err := tsc.Begin().KHz(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		b.StopTimer()
		cfg := config(b)
		_, control, err := socketPair("control")
		if err != nil {
			b.Fatal(err)
		}
		c := newCommand(cfg, processor{kvm: accelerated(), tscKHz: khz}, channels{control: control})
		console, out := pipe(b)
		cmd := &exec.Cmd{Path: path, Args: append([]string{path}, c.args...), ExtraFiles: c.files, Stdout: out, Env: []string{}}
		b.StartTimer()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		waitFor(b, console, "guest: up")
		b.StopTimer()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		b.StartTimer()
	}
}

func waitFor(b *testing.B, console io.Reader, text string) {
	b.Helper()
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	b.Fatalf("the console ended before %q", text)
}

// TestFirecrackersOwnKernelArgsDoNoHarm boots with the default command line of
// the API, which a guest without boot_args has.
func TestFirecrackersOwnKernelArgsDoNoHarm(t *testing.T) {
	cfg := config(t)
	cfg.Cmdline = "console=ttyS0 reboot=k panic=1 pci=off nomodule i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce virtio_mmio.device=4K@0xd0000000:5 do=facts"
	g := boot(t, cfg)
	g.expect("fact: cmdline")
	g.expect("guest: done")
}

// TestConsoleOfADeadReader boots although nobody has the console any more.
func TestConsoleOfADeadReader(t *testing.T) {
	console, out := pipe(t)
	console.Close()
	mark := drive(t, 1<<20, "")
	cfg := config(t, "write:vda:reached_the_end", "reboot")
	cfg.Drives = []fcserver.Drive{mark}
	m := New(spawn)
	defer m.Close()
	if err := m.Boot(context.Background(), cfg, fcserver.Env{Out: out, Logf: t.Logf}); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	got, err := os.ReadFile(filepath.Clean(mark.File.Path))
	if err != nil || !strings.HasPrefix(string(got), "reached_the_end") || m.Status() != 0 {
		t.Errorf("status %d, the guest's mark is %q, %v", m.Status(), got[:16], err)
	}
}
