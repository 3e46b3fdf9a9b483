// Package forward carries connections from a port on the host's loopback to
// wherever its dialer leads. It listens on IPv4 and IPv6; where the host has no
// IPv6, on IPv4 alone.
package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/internal/duplex"
)

// MaxConnections is how many connections one port carries at once; further ones
// wait to be accepted.
const MaxConnections = 512

// Dial connects to the far end.
type Dial func(ctx context.Context) (net.Conn, error)

// Port is a port that is listened on.
type Port struct {
	number    int
	listeners []net.Listener
	life      context.Context
	end       context.CancelFunc
	places    chan struct{}
	running   sync.WaitGroup
}

// Listen takes a port of the host's loopback; 0 takes one that is free.
func Listen(number int) (*Port, error) {
	life, end := context.WithCancel(context.Background())
	p := &Port{life: life, end: end, places: make(chan struct{}, MaxConnections)}
	if err := p.listen(number); err != nil {
		p.Close()
		return nil, fmt.Errorf("cannot listen on port %d of the host: %w", number, plain(err))
	}
	return p, nil
}

// freeTries is how many free ports are tried until one is free on IPv6 too.
const freeTries = 20

func (p *Port) listen(number int) error {
	var err error
	for range freeTries {
		err = p.listenBoth(number)
		if number != 0 || !errors.Is(err, unix.EADDRINUSE) {
			return err
		}
		p.stop()
	}
	return err
}

func (p *Port) listenBoth(number int) error {
	four, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(number))))
	if err != nil {
		return err
	}
	p.listeners = append(p.listeners, four)
	p.number = four.Addr().(*net.TCPAddr).Port
	six, err := net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.IPv6Loopback(), uint16(p.number))))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	if err != nil {
		return err
	}
	p.listeners = append(p.listeners, six)
	return nil
}

func plain(err error) error {
	var inCall *net.OpError
	if errors.As(err, &inCall) {
		return inCall.Err
	}
	return err
}

// Number is the port's number on the host.
func (p *Port) Number() int { return p.number }

// Serve connects all who come to where dial leads. What dial could not reach is
// told to failed, and its client is hung up on.
func (p *Port) Serve(dial Dial, failed func(error)) {
	for _, l := range p.listeners {
		p.running.Go(func() { p.accept(l, dial, failed) })
	}
}

func (p *Port) accept(l net.Listener, dial Dial, failed func(error)) {
	for {
		select {
		case p.places <- struct{}{}:
		case <-p.life.Done():
			return
		}
		conn, err := l.Accept()
		if err != nil {
			<-p.places
			if p.life.Err() == nil && !errors.Is(err, net.ErrClosed) {
				failed(fmt.Errorf("cannot accept connections: %w", err))
			}
			return
		}
		p.running.Go(func() {
			defer func() { <-p.places }()
			p.carry(conn.(*net.TCPConn), dial, failed)
		})
	}
}

func (p *Port) carry(near *net.TCPConn, dial Dial, failed func(error)) {
	defer near.Close()
	far, err := dial(p.life)
	if err != nil {
		if p.life.Err() == nil {
			failed(err)
		}
		_ = near.SetLinger(0) // a reset tells that nobody was there
		return
	}
	defer far.Close()
	defer context.AfterFunc(p.life, func() { near.Close(); far.Close() })()
	duplex.Join(near, far)
}

func (p *Port) stop() {
	for _, l := range p.listeners {
		l.Close()
	}
	p.listeners = nil
}

// Close lets go of the port and of all its connections.
func (p *Port) Close() {
	p.end()
	p.stop()
	p.running.Wait()
}
