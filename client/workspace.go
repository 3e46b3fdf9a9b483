package client

import (
	"context"

	"github.com/banger-vm/banger/api"
)

// Workspace connects to the workspaces of a VM's guest. Put names the one that
// is about to go in, and is nil for all else.
func (c *Client) Workspace(ctx context.Context, vm string, put *api.Workspace) (*Stream, error) {
	return c.upgrade(ctx, vmPath(vm, "/workspace"), api.UpgradeWorkspace, api.WorkspaceRequest{Put: put})
}

// ForceDeleteVM is DeleteVM also for a VM with workspaces, whatever work they
// hold.
func (c *Client) ForceDeleteVM(ctx context.Context, vm string, report Report) error {
	_, err := c.operation(ctx, vmPath(vm, "/delete"), api.DeleteRequest{Force: true}, report)
	return err
}
