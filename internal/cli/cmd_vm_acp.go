package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

// acpGrace is how long an agent may take to end after its client has.
const acpGrace = 5 * time.Second

type vmACPOptions struct {
	agent string
	cwd   string
	env   []string
	wait  string
}

func newVMACPCommand(d *deps) *cobra.Command {
	var o vmACPOptions
	c := &cobra.Command{
		Use:   "acp <vm>",
		Short: "Connect an editor to a coding agent in a VM",
		Long: `Run an agent that speaks the Agent Client Protocol in a VM, with its standard input and
output on this command's own, byte for byte, and its standard error apart. It ends when
either side does, with the agent's exit status. docs/how-to/editors-acp.md tells how to
make an editor use it.`,
		Example:           "  banger vm acp sandbox --cwd /root/repo\n  banger vm acp sandbox --agent 'opencode acp'",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMACP(c.Context(), o, d, args[0]) },
	}
	c.Flags().StringVar(&o.agent, "agent", "opencode acp", "the agent's `command`")
	c.Flags().StringVar(&o.cwd, "cwd", "", "run the agent in this `directory` of the guest")
	c.Flags().StringArrayVarP(&o.env, "env", "e", nil, "set `NAME=VALUE` for the agent; NAME alone takes the value it has here")
	addWait(c, &o.wait)
	return c
}

func runVMACP(ctx context.Context, o vmACPOptions, d *deps, vm string) error {
	argv := agentCommand(o.agent)
	if len(argv) == 0 {
		return bad("it is a command like 'opencode acp'", "--agent is empty")
	}
	env, err := environment(o.env)
	if err != nil {
		return err
	}
	wait, err := parseWait(o.wait)
	if err != nil {
		return err
	}
	command, err := d.client.Exec(ctx, vm, api.ExecRequest{Argv: argv, Env: env, Cwd: o.cwd, Wait: wait})
	if err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	client := &acpClient{in: d.in, end: func() { time.AfterFunc(acpGrace, end) }}
	code, err := command.Run(ctx, client, d.out, d.errs)
	var told *api.Error
	switch {
	case ctx.Err() != nil && client.ended.Load():
		return nil // the agent did not end by itself
	case errors.As(err, &told) && told.Kind == api.KindNoProgram:
		return &api.Error{Kind: told.Kind, Message: told.Message,
			Hint: "install the agent in the guest, or name another one by --agent; docs/how-to/editors-acp.md tells more"}
	case err != nil:
		return err
	case code != 0:
		return exitStatus(code)
	}
	return nil
}

// agentCommand is the words of a command; one that needs a shell gets one.
func agentCommand(text string) []string {
	if strings.ContainsAny(text, "'\"\\$`*?[]{}()<>|&;~#") {
		return []string{"sh", "-c", text}
	}
	return strings.Fields(text)
}

// acpClient is the editor's side, whose end is noticed.
type acpClient struct {
	in    io.Reader
	end   func()
	ended atomic.Bool
}

func (c *acpClient) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if err != nil && c.ended.CompareAndSwap(false, true) {
		c.end()
	}
	return n, err
}
