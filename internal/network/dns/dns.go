// Package dns forwards the name queries of guests to the host's own name
// servers.
//
// It keeps no cache and changes no answer; what it adds is bounds, for a guest
// may be hostile: only known addresses are served, each has a rate and a number
// of queries under way, and what is over is dropped as a full network would.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// Bounds for one guest and for all together.
const (
	perSecond      = 200 // queries a second, in the long run
	burst          = 400 // queries at once
	guestQueries   = 64  // queries under way
	guestStreams   = 8   // TCP connections
	totalQueries   = 512
	totalStreams   = 128
	streamIdle     = 10 * time.Second
	largestMessage = 65535
)

// Config says whom to serve and whom to ask.
type Config struct {
	// Listen is the UDP and TCP address.
	Listen netip.AddrPort
	// Upstreams gives the name servers, the best first, at the moment of a
	// query.
	Upstreams func() []netip.AddrPort
	// Serves says whether a query from the address is answered at all.
	Serves func(netip.Addr) bool
}

// Forwarder is a running forwarder.
type Forwarder struct {
	cfg    Config
	log    *slog.Logger
	udp    *net.UDPConn
	tcp    net.Listener
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	limits limits
}

// Listen begins to serve.
func Listen(cfg Config, log *slog.Logger) (*Forwarder, error) {
	lc := net.ListenConfig{Control: beside}
	ctx, cancel := context.WithCancel(context.Background())
	pc, err := lc.ListenPacket(ctx, "udp4", cfg.Listen.String())
	if err != nil {
		cancel()
		return nil, fmt.Errorf("cannot serve names on UDP %v: %w", cfg.Listen, err)
	}
	tcp, err := lc.Listen(ctx, "tcp4", netip.AddrPortFrom(cfg.Listen.Addr(), portOf(pc)).String())
	if err != nil {
		cancel()
		pc.Close()
		return nil, fmt.Errorf("cannot serve names on TCP %v: %w", cfg.Listen, err)
	}
	makeRoom(pc.(*net.UDPConn))
	f := &Forwarder{cfg: cfg, log: log, udp: pc.(*net.UDPConn), tcp: tcp, ctx: ctx, cancel: cancel}
	f.wg.Go(f.serveUDP)
	f.wg.Go(f.serveTCP)
	return f, nil
}

// beside lets this socket have its address while another name server of the
// host holds port 53 on all addresses, if that one allows it.
func beside(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, failed)
}

// room is what the UDP socket holds, in bytes, so that a guest's flood has to be
// a large one before it costs another guest a query.
const room = 4 << 20

// makeRoom goes past the host's limit where the process may, else up to it.
func makeRoom(c *net.UDPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // less room is no error
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, room) != nil {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, room)
		}
	})
}

func portOf(pc net.PacketConn) uint16 { return pc.LocalAddr().(*net.UDPAddr).AddrPort().Port() }

// Addr is the address it serves, for a Listen port of 0.
func (f *Forwarder) Addr() netip.AddrPort { return f.udp.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close ends all queries and waits for them.
func (f *Forwarder) Close() error {
	f.cancel()
	err := errors.Join(f.udp.Close(), f.tcp.Close())
	f.wg.Wait()
	return err
}

func (f *Forwarder) serveUDP() {
	buf := make([]byte, largestMessage)
	for {
		n, from, err := f.udp.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // such as a guest's ICMP error; the socket itself is fine
		}
		f.datagram(append([]byte(nil), buf[:n]...), from)
	}
}

func (f *Forwarder) datagram(query []byte, from netip.AddrPort) {
	guest := from.Addr().Unmap()
	if !f.cfg.Serves(guest) || !f.limits.query(guest) {
		return
	}
	f.wg.Go(func() {
		defer f.limits.queryDone(guest)
		answer := f.answer(query, overUDP)
		if answer == nil {
			return
		}
		if _, err := f.udp.WriteToUDPAddrPort(answer, from); err != nil {
			f.log.Debug("cannot answer a name query", "error", err)
		}
	})
}

func (f *Forwarder) serveTCP() {
	for {
		conn, err := f.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			f.log.Warn("cannot accept a name query", "error", err)
			continue
		}
		guest := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if !f.cfg.Serves(guest) || !f.limits.stream(guest) {
			conn.Close()
			continue
		}
		f.wg.Go(func() {
			defer f.limits.streamDone(guest)
			f.stream(conn, guest)
		})
	}
}

// stream answers queries one after the other.
func (f *Forwarder) stream(conn net.Conn, guest netip.Addr) {
	defer conn.Close()
	defer context.AfterFunc(f.ctx, func() { conn.Close() })()
	c := &dns.Conn{Conn: conn}
	for f.converse(c, guest) == nil {
	}
}

var (
	errEnough  = errors.New("the guest asks too much")
	errGarbage = errors.New("that is no query")
)

// converse takes one query and answers it.
func (f *Forwarder) converse(c *dns.Conn, guest netip.Addr) error {
	if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
		return err
	}
	query, err := c.ReadMsgHeader(nil)
	if err != nil {
		return err
	}
	if !f.limits.query(guest) {
		return errEnough
	}
	answer := f.answer(query, overTCP)
	f.limits.queryDone(guest)
	if answer == nil {
		return errGarbage
	}
	if err := c.SetDeadline(time.Now().Add(streamIdle)); err != nil {
		return err
	}
	_, err = c.Write(answer)
	return err
}
