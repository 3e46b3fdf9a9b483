package vm

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/guest/host"
	"github.com/banger-vm/banger/internal/guest/proto"
)

// StartSession starts a session in a running VM.
func (m *Manager) StartSession(ctx context.Context, nameOrID string, wait api.Wait, spec proto.SessionSpec) (proto.Session, error) {
	v, r, err := m.reachable(ctx, nameOrID, wait)
	if err != nil {
		return proto.Session{}, err
	}
	s, err := r.agent.StartSession(ctx, spec)
	return s, v.sessionError(err)
}

// AttachSession makes a client of a session. The connection goes to
// [host.RelaySession].
func (m *Manager) AttachSession(ctx context.Context, nameOrID string, want proto.Attach) (net.Conn, proto.Attached, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, proto.Attached{}, err
	}
	conn, answer, err := r.agent.AttachSession(ctx, want)
	return conn, answer, v.sessionError(err)
}

// WithSessions calls do with the agent that keeps a VM's sessions.
func (m *Manager) WithSessions(ctx context.Context, nameOrID string, do func(*host.Agent) error) error {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return err
	}
	return v.sessionError(do(r.agent))
}

// sessionKinds are the agent's refusals that say what the user can do.
var sessionKinds = map[proto.ErrorKind]api.Kind{
	proto.ErrorBadRequest: api.KindBadRequest,
	proto.ErrorNotFound:   api.KindNotFound,
	proto.ErrorExists:     api.KindExists,
	proto.ErrorWrongState: api.KindWrongState,
	proto.ErrorNoProgram:  api.KindNoProgram,
	proto.ErrorCannotExec: api.KindCannotExec,
}

// sessionError is guestError for what concerns a session, where most refusals
// are no fault of the guest's.
func (v *machine) sessionError(err error) error {
	var refused *proto.Error
	kind, known := api.Kind(""), false
	if errors.As(err, &refused) {
		kind, known = sessionKinds[refused.Kind]
	}
	if !known {
		return v.guestError(err)
	}
	name := v.record().Name
	hints := map[api.Kind]string{
		api.KindNotFound:   fmt.Sprintf("banger vm session list %s shows the sessions there are", name),
		api.KindExists:     fmt.Sprintf("choose another name, or banger vm session delete %s takes an ended one away", name),
		api.KindWrongState: fmt.Sprintf("banger vm session list %s shows how it is, banger vm session logs what it printed; banger vm session stop ends one that runs", name),
	}
	return &api.Error{Kind: kind, Message: fmt.Sprintf("VM %s: %s", name, refused.Message), Hint: hints[kind]}
}
