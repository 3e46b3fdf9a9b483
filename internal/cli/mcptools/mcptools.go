// Package mcptools is banger for a model: the tools of the Model Context
// Protocol that make sandboxes and work in them. It calls the daemon as the
// command line does. What a guest says is bounded before a model gets it.
package mcptools

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

const instructions = `Each sandbox is a real Linux machine of its own (a microVM), where you are root. What you do in one touches neither the host nor another sandbox. Make one with sandbox_create, work in it with run_command, read_file and write_file, start what goes on for long with session_start, and delete it with sandbox_delete when the work is done: its files go with it.`

// Serve answers one client on in and out until it closes in or ctx ends.
func Serve(ctx context.Context, c *client.Client, in io.ReadCloser, out io.WriteCloser) error {
	server := mcp.NewServer(&mcp.Implementation{Name: "banger", Title: "banger sandboxes", Version: api.Version},
		&mcp.ServerOptions{Instructions: instructions})
	t := tools{c}
	t.addSandboxes(server)
	t.addWork(server)
	t.addSessions(server)
	err := server.Run(ctx, &mcp.IOTransport{Reader: in, Writer: out})
	if err == nil || errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("cannot serve the Model Context Protocol: %w", err)
}

// tools are the handlers.
type tools struct{ c *client.Client }

// tool makes a handler out of one that needs only the input.
func tool[In, Out any](do func(context.Context, In) (Out, error)) mcp.ToolHandlerFor[In, Out] {
	return func(ctx context.Context, _ *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		out, err := do(ctx, in)
		return nil, out, withHint(err)
	}
}

// withHint gives a model the hint too: it is who can mend it.
func withHint(err error) error {
	var told *api.Error
	if errors.As(err, &told) && told.Hint != "" {
		return fmt.Errorf("%w (hint: %s)", err, told.Hint)
	}
	return err
}
