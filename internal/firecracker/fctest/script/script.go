// Package script is the test guest: what it prints, what it answers on which
// vsock port. It runs as a function under the in-memory machine and as the
// first process of a real kernel (program testguest).
package script

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
)

// Ports of the guest.
const (
	// EchoPort sends back what comes, until its end.
	EchoPort = 5000
	// CommandPort takes one line: reset, poweroff, or "dial <port>", which
	// makes the guest connect to that port of the host and send Greeting.
	CommandPort = 5001
	// HelloPort is the host's: the guest connects there once it is up and
	// sends Greeting.
	HelloPort = 5002
)

// Greeting is what the guest says first to the host.
const Greeting = "hello from the guest\n"

// Prefix begins each console line of the guest that tests read.
const Prefix = "testguest: "

// Disk is a block device as the guest sees it.
type Disk struct {
	Name     string // vda
	Sectors  int64  // of 512 bytes
	ReadOnly bool
	// Head is the first bytes of the disk, up to its first NUL.
	Head string
}

// headSize is how much of a disk is looked at.
const headSize = 64

// Head reads Disk.Head.
func Head(disk io.ReaderAt) (string, error) {
	head := make([]byte, headSize)
	if _, err := disk.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", err
	}
	head, _, _ = bytes.Cut(head, []byte{0})
	return string(head), nil
}

// Platform is what a guest's machine gives the script.
type Platform interface {
	Console() io.Writer
	Cmdline() string
	Disks() ([]Disk, error)
	// Networks are MAC addresses, eth0's first.
	Networks() ([]string, error)
	Listen(port uint32) (net.Listener, error)
	DialHost(ctx context.Context, port uint32) (net.Conn, error)
	// Reset and PowerOff do not return when they work.
	Reset()
	PowerOff()
	// CtrlAltDel brings one value for each press of the keys.
	CtrlAltDel() <-chan struct{}
}

// Run is the guest's life. It ends with ctx, or when the guest powers off.
func Run(ctx context.Context, p Platform) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := tell(p); err != nil {
		return err
	}
	off := make(chan struct{})
	var serving sync.WaitGroup
	err := serveAll(ctx, &serving, p, off)
	if err != nil {
		return err
	}
	greet(ctx, p, HelloPort)
	say(p, "ready")
	select {
	case <-ctx.Done():
	case <-off:
		say(p, "powers off")
		p.PowerOff()
	case <-p.CtrlAltDel():
		say(p, "ctrl-alt-del")
		p.Reset()
		<-ctx.Done()
	}
	cancel()
	serving.Wait()
	return nil
}

func say(p Platform, format string, args ...any) {
	fmt.Fprintf(p.Console(), Prefix+format+"\n", args...)
}

// tell prints the facts, one a line.
func tell(p Platform) error {
	say(p, "cmdline %s", p.Cmdline())
	disks, err := p.Disks()
	if err != nil {
		return err
	}
	for _, d := range disks {
		say(p, "disk %s %d ro=%t head=%q", d.Name, d.Sectors, d.ReadOnly, d.Head)
	}
	networks, err := p.Networks()
	if err != nil {
		return err
	}
	for i, mac := range networks {
		say(p, "network eth%d %s", i, mac)
	}
	return nil
}

func serveAll(ctx context.Context, serving *sync.WaitGroup, p Platform, off chan struct{}) error {
	var once sync.Once
	command := func(conn net.Conn) {
		obey(ctx, p, conn, func() { once.Do(func() { close(off) }) })
	}
	for port, handle := range map[uint32]func(net.Conn){EchoPort: echo, CommandPort: command} {
		l, err := p.Listen(port)
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { l.Close() })
		serving.Go(func() { accept(serving, l, handle) })
	}
	return nil
}

func accept(serving *sync.WaitGroup, l net.Listener, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		serving.Go(func() {
			defer conn.Close()
			handle(conn)
		})
	}
}

func echo(conn net.Conn) { io.Copy(conn, conn) }

func obey(ctx context.Context, p Platform, conn net.Conn, off func()) {
	line, err := bufio.NewReader(io.LimitReader(conn, 64)).ReadString('\n')
	if err != nil {
		return
	}
	var port uint32
	switch {
	case line == "reset\n":
		say(p, "resets")
		p.Reset()
	case line == "poweroff\n":
		off()
	default:
		if _, err := fmt.Sscanf(line, "dial %d\n", &port); err == nil {
			fmt.Fprintf(conn, "%v\n", greet(ctx, p, port))
		}
	}
}

func greet(ctx context.Context, p Platform, port uint32) error {
	conn, err := p.DialHost(ctx, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = io.WriteString(conn, Greeting)
	return err
}
