package vm

import (
	"context"
	"net"
	"slices"

	"github.com/banger-vm/banger/api"
)

// Workspace connects to the workspaces of a VM's guest. One that a put is about
// to bring is in the record before: from then on the VM may hold work.
func (m *Manager) Workspace(ctx context.Context, nameOrID string, put *api.Workspace) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, err
	}
	if put != nil && !slices.Contains(v.record().Workspaces, *put) {
		err := v.change(func(r *Record) error {
			r.Workspaces = slices.DeleteFunc(slices.Clone(r.Workspaces), func(w api.Workspace) bool { return w.Guest == put.Guest })
			r.Workspaces = append(r.Workspaces, *put)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	conn, err := r.agent.Workspace(ctx)
	return conn, v.guestError(err)
}

// Keep lets a VM outlive its session.
func (m *Manager) Keep(nameOrID string) error {
	v, err := m.find(nameOrID)
	if err != nil {
		return err
	}
	return v.change(func(r *Record) error {
		r.Remove = false
		return nil
	})
}
