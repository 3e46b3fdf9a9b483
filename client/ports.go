package client

import (
	"context"
	"net/http"
	"strconv"

	"github.com/banger-vm/banger/api"
)

// Ports tells which ports of the host lead into a VM.
func (c *Client) Ports(ctx context.Context, vm string) ([]api.Port, error) {
	var ports []api.Port
	return ports, c.call(ctx, http.MethodGet, vmPath(vm, "/ports"), nil, &ports)
}

// AddPort leads a port of the host's loopback into a VM, now and at every later
// start. A host port of 0 takes any that is free; the answer says which.
func (c *Client) AddPort(ctx context.Context, vm string, port api.Port) (api.Port, error) {
	var added api.Port
	return added, c.call(ctx, http.MethodPost, vmPath(vm, "/ports"), port, &added)
}

// RemovePort takes a port of the host away from a VM.
func (c *Client) RemovePort(ctx context.Context, vm string, hostPort int) error {
	return c.call(ctx, http.MethodDelete, vmPath(vm, "/ports/"+strconv.Itoa(hostPort)), nil, nil)
}
