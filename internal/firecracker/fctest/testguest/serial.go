package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/banger-vm/banger/internal/guest/proto"
	"github.com/banger-vm/banger/internal/guest/serialmux"
	"golang.org/x/sys/unix"
)

// serialLink is the multiplexed serial port of guests that have no vsock
// device. It has one epoch: nobody connects to a test's guest twice.
type serialLink struct {
	epoch chan *serialmux.Mux

	mu        sync.Mutex
	listeners map[uint32]*serialListener
}

func openSerial() (*serialLink, error) {
	path, err := findPort(proto.SerialPort)
	if err != nil {
		return nil, err
	}
	port, err := openPort(path)
	if err != nil {
		return nil, err
	}
	l := &serialLink{epoch: make(chan *serialmux.Mux, 1), listeners: map[uint32]*serialListener{}}
	go serialmux.Guest(port, l.serve)
	return l, nil
}

func findPort(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(file))), nil
		}
	}
	return "", fmt.Errorf("there is neither a vsock device nor a serial port %s", name)
}

func (l *serialLink) serve(m *serialmux.Mux) {
	l.epoch <- m
	for {
		conn, port, err := m.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		listener := l.listeners[port]
		l.mu.Unlock()
		if listener == nil {
			conn.Close()
			continue
		}
		listener.conns <- conn
	}
}

func (l *serialLink) Listen(port uint32) (net.Listener, error) {
	listener := &serialListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.mu.Lock()
	l.listeners[port] = listener
	l.mu.Unlock()
	return listener, nil
}

func (l *serialLink) DialHost(ctx context.Context, port uint32) (net.Conn, error) {
	m := <-l.epoch
	l.epoch <- m
	return m.Dial(ctx, port)
}

type serialListener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *serialListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *serialListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *serialListener) Addr() net.Addr { return &net.UnixAddr{Name: "guest", Net: "serial"} }

// port is a virtio-serial port. Its driver reports an end of file for as long
// as the host is away, so what is waited for is its next change.
type port struct {
	fd                 int
	readable, writable int
}

func openPort(path string) (*port, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	p := &port{fd: fd}
	for _, watch := range []struct {
		epoll  *int
		events uint32
	}{{&p.readable, unix.EPOLLIN}, {&p.writable, unix.EPOLLOUT}} {
		if *watch.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
			return nil, err
		}
		event := unix.EpollEvent{Events: watch.events | unix.EPOLLET, Fd: int32(fd)}
		if err := unix.EpollCtl(*watch.epoll, unix.EPOLL_CTL_ADD, fd, &event); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		await(p.readable)
	}
}

func (p *port) Write(b []byte) (int, error) {
	for {
		n, err := unix.Write(p.fd, b)
		if n > 0 {
			return n, nil
		}
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		await(p.writable)
	}
}

func await(epoll int) {
	var events [1]unix.EpollEvent
	_, _ = unix.EpollWait(epoll, events[:], -1)
}

func (p *port) Close() error { return unix.Close(p.fd) }

var _ io.ReadWriteCloser = (*port)(nil)
