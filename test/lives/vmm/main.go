// Command vmm is a VMM for tests of a VM's whole life: Firecracker's flags, API
// and sockets over a guest that is a Go function and speaks the real protocol
// of banger's agent. It boots in milliseconds.
//
// The commands of its guest are words: true; boot prints the boot's id; wait says
// that it does and ends with its client; shift puts its clock forward by a minute,
// and clock says by how many minutes it is wrong; first says whether commands were
// to go before its init; say writes a word on the console; keep writes a word to its
// disk, and kept reads it; flood prints for ever; abrupt goes down without an answer
// from then on when it is asked to, dumb does not and gives none either; hangup lets
// go of its command and says so on the console; poweroff, halt, reboot and panic are
// what they say, and what a kernel says of them; eat takes a GiB of memory. While its
// disk begins with "panic" and some dots, the guest takes one of these away and
// panics before anything else; where it begins with "deaf", it never says a word.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/banger-vm/banger/internal/firecracker/fcserver"
	"github.com/banger-vm/banger/internal/firecracker/fctest"
	"github.com/banger-vm/banger/internal/guest/proto"
)

func main() {
	os.Exit(fcserver.Main("vmm", os.Args[1:], &fctest.Memory{Run: run}))
}

// guest is one boot.
type guest struct {
	*fctest.Guest
	boot   string
	cancel context.CancelFunc
	conns  sync.WaitGroup

	mu      sync.Mutex
	manner  string        // how it takes a request to go down: abrupt, dumb, or "" as a guest does
	first   bool          // the first command goes before the init
	ahead   time.Duration // of the host's clock
	eaten   [][]byte
	events  []proto.Event
	changed chan struct{}
}

func run(ctx context.Context, machine *fctest.Guest) {
	ctx, cancel := context.WithCancel(ctx)
	g := &guest{Guest: machine, boot: rand.Text(), cancel: cancel, changed: make(chan struct{})}
	if bytes.HasPrefix(g.head(), []byte("deaf")) {
		<-ctx.Done()
		return
	}
	if g.mustPanic() {
		g.panic()
		return
	}
	g.events = []proto.Event{{Kind: proto.EventHello, Hello: g.hello()}}
	listener, err := machine.Listen(proto.AgentPort)
	if err != nil {
		fmt.Fprintln(machine.Console, "cannot listen:", err)
		return
	}
	defer g.conns.Wait()
	defer listener.Close()
	context.AfterFunc(ctx, func() { listener.Close() })
	g.conns.Go(func() { g.greet(ctx) })
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		g.conns.Go(func() { g.serve(ctx, conn) })
	}
}

func (g *guest) hello() *proto.Hello {
	return &proto.Hello{Version: "test", BootID: g.boot, Init: proto.InitNone, Kernel: "test"}
}

// greet dials the host, as an agent does once it is up.
func (g *guest) greet(ctx context.Context) {
	conn, err := g.DialHost(ctx, proto.HelloPort)
	if err != nil {
		return
	}
	g.tell(ctx, conn)
}

// tell sends all events, past and coming, until the other end closes.
func (g *guest) tell(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	go func() {
		_, _ = conn.Read(make([]byte, 1)) // the host says nothing: it goes
		cancel()
	}()
	out := proto.NewWriter(conn)
	for sent := 0; ; {
		g.mu.Lock()
		news, changed := g.events[sent:], g.changed
		g.mu.Unlock()
		for _, e := range news {
			if out.JSON(proto.TypeEvent, e) != nil {
				return
			}
			sent++
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (g *guest) happened(e proto.Event) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.events, e) {
		g.events = append(g.events, e)
		close(g.changed)
		g.changed = make(chan struct{})
	}
}

func (g *guest) serve(ctx context.Context, conn net.Conn) {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	defer conn.Close()
	frame, err := proto.ReadFrame(conn)
	if err != nil {
		return
	}
	var request proto.Request
	if err := proto.Decode(frame.Payload, &request); err != nil {
		return
	}
	switch request.Op {
	case proto.OpInfo:
		accept(conn, g.hello())
	case proto.OpSetTime:
		var s proto.SetTime
		if proto.Decode(request.Body, &s) == nil {
			g.setClock(s.Time)
			accept(conn, nil)
		}
	case proto.OpConfigure:
		var c proto.Config
		if proto.Decode(request.Body, &c) == nil {
			g.setClock(c.Time)
			g.goesFirst(c.CommandFirst)
		}
		accept(conn, nil)
		g.happened(proto.Event{Kind: proto.EventReady, Stage: proto.StageDefault})
		g.happened(proto.Event{Kind: proto.EventReady, Stage: proto.StageSystem})
	case proto.OpWatch:
		accept(conn, nil)
		g.tell(ctx, conn)
	case proto.OpExec:
		var e proto.Exec
		if proto.Decode(request.Body, &e) == nil {
			accept(conn, nil)
			g.exec(conn, e)
		}
	case proto.OpDial:
		accept(conn, nil)
		echo(conn)
	case proto.OpShutdown:
		var s proto.Shutdown
		if proto.Decode(request.Body, &s) == nil {
			g.isAskedToShutDown(conn, s.Reason)
		}
	case proto.OpLogs:
		accept(conn, nil)
		_ = proto.NewWriter(conn).Frame(proto.TypeLogEnd, nil)
	default:
		_ = proto.NewWriter(conn).JSON(proto.TypeReply, proto.Reply{Error: &proto.Error{Kind: proto.ErrorBadRequest, Message: "this guest can't"}})
	}
}

func (g *guest) setClock(t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ahead = time.Until(t)
}

func (g *guest) goesFirst(first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.first = first
}

// echo is a server of the guest's that says everything back.
func echo(conn net.Conn) {
	for {
		f, err := proto.ReadFrame(conn)
		if err != nil || f.Type != proto.TypeStdin {
			return
		}
		if _, err := conn.Write(f.Payload); err != nil {
			return
		}
	}
}

// accept answers a host that may be gone, which is no trouble of the guest's.
func accept(conn net.Conn, body any) {
	var reply proto.Reply
	if body != nil {
		reply.Body, _ = json.Marshal(body)
	}
	_ = proto.NewWriter(conn).JSON(proto.TypeReply, reply)
}

func (g *guest) exec(conn net.Conn, e proto.Exec) {
	out := proto.NewWriter(conn)
	end := func() { _ = out.Uint32(proto.TypeExit, 0) }
	switch word := e.Argv[0]; word {
	case "true":
		end()
	case "boot":
		_ = out.Frame(proto.TypeStdout, []byte(g.boot))
		end()
	case "shift":
		g.setClock(time.Now().Add(time.Minute))
		end()
	case "clock":
		g.mu.Lock()
		wrong := g.ahead.Round(time.Minute) // the time travels for a while on a busy host
		g.mu.Unlock()
		_ = out.Frame(proto.TypeStdout, []byte(wrong.String()))
		end()
	case "first":
		g.mu.Lock()
		first := g.first
		g.mu.Unlock()
		_ = out.Frame(proto.TypeStdout, strconv.AppendBool(nil, first))
		end()
	case "say":
		fmt.Fprint(g.Console, e.Argv[1]+"\r\n")
		end()
	case "keep":
		if g.keep(e.Argv[1]) == nil {
			end()
		}
	case "kept":
		_ = out.Frame(proto.TypeStdout, g.kept())
		end()
	case "hangup":
		conn.Close()
		fmt.Fprint(g.Console, "hung up\r\n")
	case "eat":
		end()
		for range 1024 {
			g.eaten = append(g.eaten, bytes.Repeat([]byte{1}, 1<<20))
		}
	case "wait":
		_ = out.Frame(proto.TypeStdout, []byte("waiting\n"))
		_, _ = io.Copy(io.Discard, conn)
	case "flood":
		for out.Frame(proto.TypeStdout, make([]byte, proto.MaxData)) == nil {
		}
	case "abrupt", "dumb":
		g.mu.Lock()
		g.manner = word
		g.mu.Unlock()
		end()
	case "panic":
		end()
		g.panic()
	case "poweroff", "halt", "reboot":
		end()
		g.shutDown(proto.Reason(word))
	default:
		_ = out.JSON(proto.TypeExecError, proto.ExecError{Kind: proto.ExecNoProgram, Message: word + ": not found"})
	}
}

func (g *guest) panic() {
	fmt.Fprint(g.Console, "[    1.000000] Kernel panic - not syncing: it was asked to\r\n")
	g.Reset()
}

// mustPanic says whether the disk asks for it.
func (g *guest) mustPanic() bool {
	dots, found := bytes.CutPrefix(g.head(), []byte("panic"))
	left := bytes.LastIndexByte(dots, '.')
	if !found || left < 0 {
		return false
	}
	_, err := g.disk().WriteAt([]byte{0}, int64(len("panic")+left))
	return err == nil
}

// head is the disk's beginning, where a word may tell how the guest is to boot.
func (g *guest) head() []byte {
	head := make([]byte, 16)
	if _, err := g.disk().ReadAt(head, 0); err != nil {
		return nil
	}
	return head
}

// disk is the drive that the VM writes to.
func (g *guest) disk() *fcserver.File {
	for _, drive := range g.Config.Drives {
		if drive.ID == "cow" {
			return drive.File
		}
	}
	return nil
}

// keptAt is where on the disk the kept word lies, behind its length.
const keptAt = 1 << 20

func (g *guest) keep(word string) error {
	_, err := g.disk().WriteAt(append([]byte{byte(len(word))}, word...), keptAt)
	return errors.Join(err, g.disk().Sync())
}

func (g *guest) kept() []byte {
	word := make([]byte, 256)
	if n, _ := g.disk().ReadAt(word, keptAt); n == 0 {
		return nil
	}
	return word[1 : 1+word[0]]
}

func (g *guest) isAskedToShutDown(conn net.Conn, why proto.Reason) {
	g.mu.Lock()
	manner := g.manner
	g.mu.Unlock()
	if manner == "" {
		accept(conn, nil)
	}
	if manner == "dumb" {
		return
	}
	g.shutDown(why)
}

// shutDown is init's and the kernel's part of a shutdown. After a poweroff or a
// halt nothing runs in the machine, and the machine goes on.
func (g *guest) shutDown(why proto.Reason) {
	switch why {
	case proto.ReasonReboot:
		fmt.Fprint(g.Console, "[    1.000000] reboot: Restarting system\r\n")
		g.Reset()
	case proto.ReasonHalt:
		fmt.Fprint(g.Console, "[    1.000000] reboot: System halted\r\n")
	default:
		fmt.Fprint(g.Console, "[    1.000000] reboot: Power down\r\n")
	}
	g.cancel()
}
