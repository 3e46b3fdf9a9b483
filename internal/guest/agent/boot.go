package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/serialmux"
)

// anyCID is the context id of a guest with no vsock device, and the one to
// listen on whatever the device says (VMADDR_CID_ANY).
const anyCID = 1<<32 - 1

// commandGroups is where commands get their control groups.
const commandGroups = "/sys/fs/cgroup/banger"

// Run is the agent's life in a guest. It closes configured as soon as the guest
// has its identity, and returns only when nothing is left to serve.
func Run(version string, configured io.Closer) error {
	surviveShutdown()
	unix.Umask(0o022)
	a := New(Options{
		Root: "/", Version: version, Kernel: Linux{}, Cgroups: commandGroups,
		Configured: func() { _ = configured.Close() },
	})
	var parts sync.WaitGroup
	for _, part := range []func(*Agent) error{runNotify, runVsock, runSerial, runOpenRC} {
		parts.Go(func() {
			if err := part(a); err != nil {
				fmt.Fprintf(os.Stderr, "banger-vsock-agent: %v\n", err)
			}
		})
	}
	parts.Wait()
	return fmt.Errorf("there is no way to the host: neither vsock nor a serial port named %s", proto.SerialPort)
}

// surviveShutdown keeps the agent alive while an init ends all processes with a
// polite signal: the host wants to be told until the end. The signals are
// caught, not ignored: commands would inherit that.
func surviveShutdown() {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	go func() {
		for range caught {
		}
	}()
}

func runNotify(a *Agent) error {
	l, err := ListenNotify(proto.NotifySocket)
	if err != nil {
		return err
	}
	return a.ServeNotify(l)
}

// runVsock serves the guest's vsock device, if it has one.
func runVsock(a *Agent) error {
	if !hasVsock() {
		return nil
	}
	// Not on the present context id: a resumed guest may have another.
	l, err := vsock.ListenContextID(anyCID, proto.AgentPort, nil)
	if err != nil {
		return fmt.Errorf("cannot listen on vsock: %w", err)
	}
	go a.greet(func() (net.Conn, error) { return vsock.Dial(vsock.Host, proto.HelloPort, nil) })
	return a.Serve(hostOnly{l})
}

// hostOnly lets nobody in but the host: where the image has loaded the kernel's
// vsock loopback, the guest's own programs reach this listener too.
type hostOnly struct{ net.Listener }

func (l hostOnly) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || isHost(conn.RemoteAddr()) {
			return conn, err
		}
		conn.Close()
	}
}

func isHost(addr net.Addr) bool {
	peer, ok := addr.(*vsock.Addr)
	return ok && peer.ContextID == vsock.Host
}

// hasVsock says whether there is a device, not only the kernel's module.
func hasVsock() bool {
	cid, err := vsock.ContextID()
	return err == nil && cid != anyCID
}

// greet tells the host that the agent is up, and then all that happens. A host
// that does not listen, or goes, asks when it wants to know.
func (a *Agent) greet(dial func() (net.Conn, error)) {
	conn, err := dial()
	if err != nil {
		return
	}
	defer conn.Close()
	a.events.watch(conn)
}

// runSerial serves the virtio-serial port of a guest without vsock, as soon as
// there is one.
func runSerial(a *Agent) error {
	if hasVsock() {
		return nil
	}
	port, err := waitForPort(proto.SerialPort)
	if err != nil {
		return err
	}
	return serialmux.Guest(port, a.serveEpoch)
}

func (a *Agent) serveEpoch(m *serialmux.Mux) {
	go a.greet(func() (net.Conn, error) { return m.Dial(context.Background(), proto.HelloPort) })
	for {
		conn, port, err := m.Accept()
		if err != nil {
			return
		}
		if port != proto.AgentPort {
			conn.Close()
			continue
		}
		go a.ServeConn(conn)
	}
}

func runOpenRC(a *Agent) error {
	if a.init != proto.InitOpenRC {
		return nil
	}
	if err := waitForOpenRC("/run"); err != nil {
		return err
	}
	a.events.add(systemReady)
	return nil
}

// Main is the program: `configured <fd>` serves, and closes that file once the
// guest has its identity; `notify <word>` tells the one that serves. It returns
// the exit status.
func Main(args []string, version string) int {
	var err error
	switch {
	case len(args) == 2 && args[0] == "configured":
		err = runFor(args[1], version)
	case len(args) == 2 && args[0] == "notify":
		err = Notify(proto.NotifySocket, args[1])
	case len(args) == 1 && args[0] == "version":
		fmt.Println(version)
	default:
		err = fmt.Errorf("usage: %s configured <fd> | notify default|system|poweroff|reboot|halt | version", filepath.Base(os.Args[0]))
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "banger-vsock-agent: %v\n", err)
		return 1
	}
	return 0
}

// runFor serves for the program that handed over the file with that number.
func runFor(fd, version string) error {
	n, err := strconv.ParseUint(fd, 10, 31)
	if err != nil {
		return fmt.Errorf("cannot tell when the guest is configured: %w", err)
	}
	unix.CloseOnExec(int(n)) // a command that had it would keep it open
	return Run(version, os.NewFile(uintptr(n), "configured"))
}
