package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// Exec starts a command in a running VM, when its guest has come as far as
// wait says. The connection goes to [host.Relay].
func (m *Manager) Exec(ctx context.Context, nameOrID string, wait api.Wait, command proto.Exec) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, wait)
	if err != nil {
		return nil, err
	}
	conn, err := r.agent.Exec(ctx, command)
	if err != nil {
		return nil, v.guestError(err)
	}
	return lastWish{conn, r}, nil
}

// lastWish is a connection to a guest that is not seen to end before its VMM is, where
// that ends too: a guest that goes down takes its connections along, and whoever had
// one asks at once what has become of the VM.
type lastWish struct {
	net.Conn
	of *run
}

// goingDown is more than a guest takes from the end of its processes to its own. A
// busybox init sleeps for a second or two between them.
const goingDown = 5 * time.Second

// Read implements [io.Reader].
func (c lastWish) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil || errors.Is(err, net.ErrClosed) {
		return n, err
	}
	select {
	case <-c.of.process.Done():
	case <-c.of.ctx.Done():
	case <-time.After(goingDown):
	}
	return n, err
}

// SSH connects to the VM's SSH server.
func (m *Manager) SSH(ctx context.Context, nameOrID string) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, err
	}
	conn, err := r.agent.SSH(ctx)
	return conn, v.guestError(err)
}

// Put lets a running VM take a tree of files. The connection carries what
// package filetree describes.
func (m *Manager) Put(ctx context.Context, nameOrID string, p proto.Put) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, err
	}
	conn, err := r.agent.Put(ctx, p)
	return conn, v.copyError(err)
}

// Get lets a running VM send a tree of files.
func (m *Manager) Get(ctx context.Context, nameOrID string, g proto.Get) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, err
	}
	conn, err := r.agent.Get(ctx, g)
	return conn, v.copyError(err)
}

// reachable gives a VM that runs and whose agent is configured.
func (m *Manager) reachable(ctx context.Context, nameOrID string, wait api.Wait) (*machine, *run, error) {
	v, err := m.find(nameOrID)
	if err != nil {
		return nil, nil, err
	}
	r, err := v.current(ctx)
	if err != nil {
		return nil, nil, err
	}
	if rec := v.record(); rec.State == api.StatePaused {
		return nil, nil, &api.Error{Kind: api.KindWrongState, Message: fmt.Sprintf("VM %s is paused: %s", rec.Name, rec.Reason),
			Hint: "free some space on the host's disk, and it runs on by itself"}
	}
	err = v.within(ctx, m.StageTimeout, r, wait)
	if errors.Is(err, errVMMEnded) {
		return nil, nil, v.hasEnded()
	}
	return v, r, err
}

// current gives the run of a VM that runs. When its start is about to be over, or
// its end is being dealt with, that is waited for.
func (v *machine) current(ctx context.Context) (*run, error) {
	if r := v.running(); r != nil {
		return r, nil
	}
	if err := require(v.record(), "reach", api.StateRunning); err != nil {
		return nil, err
	}
	end, err := v.begin(ctx)
	if err != nil {
		return nil, err
	}
	end()
	if r := v.running(); r != nil {
		return r, nil
	}
	return nil, v.hasEnded()
}

func (v *machine) hasEnded() error {
	rec := v.record()
	if rec.State == api.StateDeleting {
		return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("VM %s was deleted", rec.Name), Hint: hintFor(rec)}
	}
	return &api.Error{Kind: api.KindWrongState, Message: fmt.Sprintf("VM %s ended", rec.Name), Hint: hintFor(rec)}
}

func (v *machine) guestError(err error) error {
	if err == nil {
		return nil
	}
	name := v.record().Name
	var refused *proto.Error
	if errors.As(err, &refused) && refused.Kind == proto.ErrorBadRequest { // nothing that the guest's log would tell of
		return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("VM %s: %v", name, err)}
	}
	return &api.Error{
		Kind:    api.KindGuest,
		Message: fmt.Sprintf("VM %s: %v", name, err),
		Hint:    fmt.Sprintf("banger vm logs %s shows what it said", name),
	}
}

// copyError is guestError for a copy, which a guest refuses for the path that
// the user has named.
func (v *machine) copyError(err error) error {
	var refused *proto.Error
	if !errors.As(err, &refused) {
		return v.guestError(err)
	}
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("VM %s: %s", v.record().Name, refused.Message)}
}

// Logs hands the lines of a VM's log to emit: the console and the daemon's own
// words in order, then what the guest's kernel and journal hold. With follow it
// goes on until the VM is deleted. The end of ctx is an error: there is more.
func (m *Manager) Logs(ctx context.Context, nameOrID string, follow bool, emit func(api.LogLine) error) error {
	v, err := m.find(nameOrID)
	if err != nil {
		return err
	}
	past, more, stop := v.log.read()
	defer stop()
	for _, line := range past {
		if err := emit(line); err != nil {
			return err
		}
	}
	guest := v.guestLog(ctx, follow)
	for guest != nil || follow {
		var line api.LogLine
		var ok bool
		select {
		case line, ok = <-guest:
			if !ok {
				guest = nil
				continue
			}
		case line, ok = <-more:
			if !ok {
				return nil // the VM is deleted
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := emit(line); err != nil {
			return err
		}
	}
	return nil
}

// guestLog gives the guest's own log, line by line; nil where no agent answers.
// It is asked on the side: what the host knows must not wait for a guest.
func (v *machine) guestLog(ctx context.Context, follow bool) <-chan api.LogLine {
	r := v.running()
	if r == nil || !r.isReady() || v.record().State == api.StatePaused {
		return nil
	}
	lines := make(chan api.LogLine)
	go func() {
		defer close(lines)
		if err := sendGuestLog(ctx, r.agent, follow, lines); err != nil && ctx.Err() == nil {
			v.log.add("daemon", err.Error())
		}
	}()
	return lines
}

func sendGuestLog(ctx context.Context, agent *host.Agent, follow bool, to chan<- api.LogLine) error {
	reader, err := agent.Logs(ctx, follow)
	if err != nil {
		return err
	}
	defer reader.Close()
	defer context.AfterFunc(ctx, func() { reader.Close() })()
	for {
		line, err := reader.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) { // a guest that goes down says no more
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case to <- api.LogLine{Source: guestSource(line.Source), Text: line.Text}:
		case <-ctx.Done():
			return nil
		}
	}
}

func guestSource(s byte) string {
	switch s {
	case proto.LogJournal:
		return "journal"
	case proto.LogAgent:
		return "agent"
	}
	return "kernel"
}
