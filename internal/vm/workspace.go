package vm

import (
	"context"
	"net"
	"slices"

	"github.com/banger-vm/banger/api"
)

// Workspace connects to the workspaces of a VM's guest.
func (m *Manager) Workspace(ctx context.Context, nameOrID string) (net.Conn, error) {
	v, r, err := m.reachable(ctx, nameOrID, api.WaitAgent)
	if err != nil {
		return nil, err
	}
	conn, err := r.agent.Workspace(ctx)
	return conn, v.guestError(err)
}

// AddWorkspace puts a workspace into a VM's record before it is in the guest:
// from then on the VM may hold work.
func (m *Manager) AddWorkspace(nameOrID string, added api.Workspace) error {
	v, err := m.find(nameOrID)
	if err != nil || slices.Contains(v.record().Workspaces, added) {
		return err
	}
	return v.change(func(r *Record) error {
		r.Workspaces = slices.DeleteFunc(slices.Clone(r.Workspaces), func(w api.Workspace) bool { return w.Guest == added.Guest })
		r.Workspaces = append(r.Workspaces, added)
		return nil
	})
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
