package agent_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/agent"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// watch returns the guest's events, whose hello was read.
func (g guest) watch(t *testing.T) *host.Events {
	t.Helper()
	events, err := g.Watch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { events.Close() })
	return events
}

func expect(t *testing.T, events *host.Events, want ...proto.Event) {
	t.Helper()
	for _, w := range want {
		got, err := events.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(w, got); diff != "" {
			t.Fatal(diff)
		}
	}
}

var (
	defaultReady = proto.Event{Kind: proto.EventReady, Stage: proto.StageDefault}
	systemReady  = proto.Event{Kind: proto.EventReady, Stage: proto.StageSystem}
	poweroff     = proto.Event{Kind: proto.EventGoodbye, Reason: proto.ReasonPoweroff}
)

// startNotified is start with the socket by which systemd's units tell the agent.
func startNotified(t *testing.T) (g guest, socket string) {
	t.Helper()
	g = start(t, proto.InitSystemd)
	socket = filepath.Join(t.TempDir(), "agent.sock")
	l, err := agent.ListenNotify(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go g.agent.ServeNotify(l)
	return g, socket
}

// TestNotify has systemd's units tell the agent, and two watchers, one of whom
// comes late, told of it.
func TestNotify(t *testing.T) {
	g, socket := startNotified(t)
	early := g.watch(t)
	if early.Hello.Init != proto.InitSystemd || early.Hello.Version != "v1" || early.Hello.BootID == "" || early.Hello.Kernel == "" {
		t.Fatalf("%+v", early.Hello)
	}
	if err := g.Configure(t.Context(), proto.Config{Hostname: "box"}); err != nil {
		t.Fatal(err)
	}
	g.kernel.SetHostname("localhost") // as the image's init does
	for _, word := range []string{"default", "default", "system", "poweroff"} {
		if err := agent.Notify(socket, word); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, early, defaultReady, systemReady, poweroff)
	g.kernel.mu.Lock()
	if g.kernel.hostname != "box" {
		t.Errorf("the host name is %q", g.kernel.hostname)
	}
	g.kernel.mu.Unlock()
	expect(t, g.watch(t), defaultReady, systemReady, poweroff)
	if err := agent.Notify(socket, "nonsense"); err == nil {
		t.Fatal("a word that is none was taken")
	}
}

// TestALostWord has a guest that told only that it is up.
func TestALostWord(t *testing.T) {
	g, socket := startNotified(t)
	if err := agent.Notify(socket, "system"); err != nil {
		t.Fatal(err)
	}
	expect(t, g.watch(t), defaultReady, systemReady)
}

// TestReadyByConfigure is about images whose init tells nothing.
func TestReadyByConfigure(t *testing.T) {
	for init, want := range map[proto.InitKind][]proto.Event{
		proto.InitNone:    {defaultReady, systemReady},
		proto.InitBusybox: {defaultReady, systemReady},
		proto.InitOther:   {defaultReady, systemReady},
		proto.InitOpenRC:  {defaultReady},
	} {
		g := start(t, init)
		events := g.watch(t)
		if err := g.Configure(t.Context(), proto.Config{}); err != nil {
			t.Fatal(err)
		}
		expect(t, events, want...)
	}
}

func TestShutdown(t *testing.T) {
	for _, test := range []struct {
		init   proto.InitKind
		reason proto.Reason
		want   unix.Signal
		says   bool
	}{
		{proto.InitSystemd, proto.ReasonPoweroff, 38, false},
		{proto.InitSystemd, proto.ReasonReboot, 39, false},
		{proto.InitNone, proto.ReasonPoweroff, unix.SIGUSR2, true},
		{proto.InitBusybox, proto.ReasonReboot, unix.SIGTERM, true},
	} {
		g := start(t, test.init)
		events := g.watch(t)
		if err := g.Shutdown(t.Context(), proto.Shutdown{Reason: test.reason}); err != nil {
			t.Fatal(err)
		}
		if got := <-g.kernel.signalled; got != test.want {
			t.Errorf("%s, %s: signal %d, want %d", test.init, test.reason, got, test.want)
		}
		if test.says {
			expect(t, events, proto.Event{Kind: proto.EventGoodbye, Reason: test.reason})
		}
	}
	g := start(t, proto.InitOther)
	if err := g.Shutdown(t.Context(), proto.Shutdown{Reason: "nap"}); err == nil {
		t.Fatal("a reason that is none was taken")
	}
}

// TestShutdownByProgram is about inits that take orders from a program only.
func TestShutdownByProgram(t *testing.T) {
	g := start(t, proto.InitOpenRC)
	fifo := filepath.Join(g.root, "told")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(g.root, "sbin/poweroff"), "#!/bin/sh\necho poweroff >"+fifo+"\n")
	if err := unix.Chmod(filepath.Join(g.root, "sbin/poweroff"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := g.Shutdown(t.Context(), proto.Shutdown{Reason: proto.ReasonPoweroff}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, fifo); got != "poweroff\n" {
		t.Fatalf("%q", got)
	}
}

func TestNextEventGivesUp(t *testing.T) {
	g := start(t, proto.InitSystemd)
	events := g.watch(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := events.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestDial(t *testing.T) {
	g := start(t, proto.InitNone)
	for _, network := range []string{"tcp", "unix"} {
		addr := "127.0.0.1:0"
		if network == "unix" {
			addr = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, addr)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go echoOnce(l)
		conn, err := g.Dial(t.Context(), network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if got := talk(t, conn, "hello"); got != "hello" {
			t.Fatalf("%s: %q", network, got)
		}
	}
	if _, err := g.Dial(t.Context(), "udp", "127.0.0.1:1"); err == nil {
		t.Fatal("udp was dialled")
	}
	if _, err := g.Dial(t.Context(), "unix", "/no/such/socket"); err == nil {
		t.Fatal("nothing was dialled")
	}
}
