package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/banger-vm/banger/api"
)

// vmPath is the path of a VM, which is named by its name or its id.
func vmPath(vm, rest string) string { return "/v1/vms/" + url.PathEscape(vm) + rest }

// VMs lists every VM.
func (c *Client) VMs(ctx context.Context) ([]api.VM, error) {
	var vms []api.VM
	return vms, c.call(ctx, http.MethodGet, "/v1/vms", nil, &vms)
}

// VM tells of one VM.
func (c *Client) VM(ctx context.Context, vm string) (api.VM, error) {
	var v api.VM
	return v, c.call(ctx, http.MethodGet, vmPath(vm, ""), nil, &v)
}

// Created is a VM that was just made, and the session that holds it.
type Created struct {
	VM  api.VM
	end func()
}

// Close ends the session: a VM that was asked for with Remove is then deleted
// by the daemon. The end of this process ends it too.
func (c *Created) Close() { c.end() }

// Create makes a VM and, unless told otherwise, starts it. Ctx counts until it
// is there; a cancelled creation leaves nothing behind.
func (c *Client) Create(ctx context.Context, req api.CreateRequest, report Report) (*Created, error) {
	session, end := context.WithCancel(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, end)
	created, err := c.create(ctx, session, req, report)
	if err != nil {
		detach()
		end()
		return nil, err
	}
	detach()
	closeBody := created.end
	created.end = func() { end(); closeBody() }
	if !req.Remove {
		created.end()
	}
	return created, nil
}

func (c *Client) create(ctx, session context.Context, req api.CreateRequest, report Report) (*Created, error) {
	resp, err := c.send(session, http.MethodPost, "/v1/vms", req) //nolint:bodyclose // Created closes it
	if err != nil {
		return nil, interruptedOr(ctx, err)
	}
	result, err := c.result(session, resp.Body, report)
	if err == nil && result.VM == nil {
		err = &api.Error{Kind: api.KindInternal, Message: "bangerd made a VM and did not say which"}
	}
	if err != nil {
		resp.Body.Close()
		return nil, interruptedOr(ctx, err)
	}
	return &Created{VM: *result.VM, end: func() { resp.Body.Close() }}, nil
}

// interruptedOr keeps the reason of ctx's end, which the session's context
// does not know.
func interruptedOr(ctx context.Context, err error) error {
	var e *api.Error
	if ctx.Err() != nil && errors.As(err, &e) && e.Kind == api.KindCanceled {
		return canceled(ctx)
	}
	return err
}

// StartVM starts a VM. One that runs already is left as it is, and a warning says so.
func (c *Client) StartVM(ctx context.Context, vm string, req api.StartRequest, report Report) (api.VM, error) {
	return c.change(ctx, vmPath(vm, "/start"), req, report)
}

// StopVM lets the guest shut down, and ends it when it does not.
func (c *Client) StopVM(ctx context.Context, vm string, req api.StopRequest, report Report) (api.VM, error) {
	return c.change(ctx, vmPath(vm, "/stop"), req, report)
}

// RestartVM stops a VM and starts it again.
func (c *Client) RestartVM(ctx context.Context, vm string, req api.StartRequest, report Report) (api.VM, error) {
	return c.change(ctx, vmPath(vm, "/restart"), req, report)
}

func (c *Client) change(ctx context.Context, path string, req any, report Report) (api.VM, error) {
	result, err := c.operation(ctx, path, req, report)
	if err != nil || result.VM == nil {
		return api.VM{}, err
	}
	return *result.VM, nil
}

// DeleteVM deletes a VM and all that is its own, running or not. One with a
// workspace is refused: [Client.ForceDeleteVM].
func (c *Client) DeleteVM(ctx context.Context, vm string, report Report) error {
	_, err := c.operation(ctx, vmPath(vm, "/delete"), nil, report)
	return err
}

// Prune deletes every VM that is stopped or failed and gives their names.
func (c *Client) Prune(ctx context.Context, report Report) ([]string, error) {
	result, err := c.operation(ctx, "/v1/prune", nil, report)
	return result.Pruned, err
}

// SyncCredentials gives a running VM the credentials that its host has now.
func (c *Client) SyncCredentials(ctx context.Context, vm string) (api.Credentials, error) {
	var synced api.Credentials
	return synced, c.call(ctx, http.MethodPost, vmPath(vm, "/credentials"), nil, &synced)
}

// SSHInfo gives what a program needs to run ssh against a VM.
func (c *Client) SSHInfo(ctx context.Context, vm string) (api.SSHInfo, error) {
	var info api.SSHInfo
	return info, c.call(ctx, http.MethodGet, vmPath(vm, "/ssh"), nil, &info)
}

// Logs calls f with every line of a VM's log, and with follow goes on with
// those to come until ctx ends or the VM is deleted. The daemon's end is an error.
func (c *Client) Logs(ctx context.Context, vm string, follow bool, f func(api.LogLine) error) error {
	path := vmPath(vm, "/logs")
	if follow {
		path += "?follow=1"
	}
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for decoder := json.NewDecoder(resp.Body); ; {
		var line api.LogLine
		err := decoder.Decode(&line)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.broken(ctx, err)
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
