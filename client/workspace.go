package client

import (
	"context"
	"net/http"

	"github.com/banger-vm/banger/api"
)

// Workspace connects to the workspaces of a VM's guest.
func (c *Client) Workspace(ctx context.Context, vm string) (*Stream, error) {
	return c.upgrade(ctx, vmPath(vm, "/workspace"), api.UpgradeWorkspace, nil)
}

// AddWorkspace says that a VM is about to have a workspace, and may hold work
// from then on.
func (c *Client) AddWorkspace(ctx context.Context, vm string, w api.Workspace) error {
	return c.call(ctx, http.MethodPost, vmPath(vm, "/workspaces"), w, nil)
}

// ForceDeleteVM is DeleteVM also for a VM with workspaces, whatever work they
// hold.
func (c *Client) ForceDeleteVM(ctx context.Context, vm string, report Report) error {
	_, err := c.operation(ctx, vmPath(vm, "/delete"), api.DeleteRequest{Force: true}, report)
	return err
}
