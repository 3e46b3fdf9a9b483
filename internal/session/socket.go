package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// socket is where programs of the host reach one session.
type socket struct {
	listener net.Listener
	ctx      context.Context // ends with the socket
	close    func()
}

// open gives the path of a session's socket, which is made unless it is there.
func (h *Host) open(vmID, name string) (string, error) {
	path := h.path(vmID, name)
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.sockets[path]; ok {
		return path, nil
	}
	if h.life.Err() != nil {
		return "", context.Cause(h.life)
	}
	l, err := listen(path)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithCancel(h.life)
	s := &socket{listener: l, ctx: ctx, close: func() { cancel(); l.Close() }}
	h.sockets[path] = s
	h.work.Go(func() { h.serve(s, vmID, name) })
	return path, nil
}

// listen makes a socket for its user alone, in the place of one that another
// bangerd left.
func listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the directory of a session's socket: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("cannot make a session's socket: %w", err)
	}
	l.SetUnlinkOnClose(false) // the next daemon's socket may be there by then
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot close a session's socket to others: %w", err)
	}
	return l, nil
}

// serve serves the clients of a socket until it is closed.
func (h *Host) serve(s *socket, vmID, name string) {
	places := make(chan struct{}, maxClients)
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		h.work.Go(func() {
			defer func() { <-places }()
			h.attend(s, conn, vmID, name)
		})
	}
}

// attend serves one client: its Attach, the answer to it, and session frames.
func (h *Host) attend(s *socket, conn net.Conn, vmID, name string) {
	defer conn.Close()
	defer context.AfterFunc(s.ctx, func() { conn.Close() })()
	want, err := readAttach(conn)
	var guest net.Conn
	var answer proto.Attached
	if err == nil {
		want.Name = name
		guest, answer, err = h.vms.AttachSession(s.ctx, vmID, want)
	}
	if err != nil {
		refuse(conn, err)
		return
	}
	if Accept(conn, answer) != nil {
		guest.Close()
		return
	}
	if err := host.RelaySession(conn, guest, name); err != nil && !errors.Is(err, host.ErrClientGone) {
		h.log.Info("a client of a session was lost", "vm", vmID, "session", name, "error", err)
	}
}

// readAttach reads what a client begins with.
func readAttach(conn net.Conn) (proto.Attach, error) {
	var want proto.Attach
	if err := conn.SetReadDeadline(time.Now().Add(introduction)); err != nil {
		return want, err
	}
	f, err := proto.ReadFrame(conn)
	if err != nil {
		return want, badRequest(fmt.Sprintf("cannot read the attach frame: %v", err))
	}
	if f.Type != proto.TypeAttach {
		return want, badRequest(fmt.Sprintf("a client of a session's socket begins with a frame of type %d, not %d", proto.TypeAttach, f.Type))
	}
	if err := proto.Decode(f.Payload, &want); err != nil {
		return want, badRequest(err.Error())
	}
	return want, conn.SetReadDeadline(time.Time{})
}

func badRequest(message string) error {
	return &api.Error{Kind: api.KindBadRequest, Message: message, Hint: "docs/reference/sessions.md describes the frames"}
}

// Accept sends a client the answer that its session frames follow.
func Accept(conn net.Conn, answer proto.Attached) error {
	body, err := json.Marshal(answer)
	if err != nil {
		return fmt.Errorf("cannot encode an answer: %w", err)
	}
	return proto.NewWriter(conn).JSON(proto.TypeReply, proto.Reply{Body: body})
}

func refuse(conn net.Conn, err error) {
	told := &proto.Error{Kind: proto.ErrorFailed, Message: err.Error()}
	var e *api.Error
	if errors.As(err, &e) {
		told.Kind = proto.ErrorKind(e.Kind)
	}
	_ = proto.NewWriter(conn).JSON(proto.TypeReply, proto.Reply{Error: told}) // a client that is gone needs no answer
}
