package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

// maxSend is what the guest takes in one piece.
const maxSend = 512 << 10

type vmSessionSendOptions struct{ eof bool }

func newVMSessionSendCommand(d *deps) *cobra.Command {
	var o vmSessionSendOptions
	c := &cobra.Command{
		Use:   "send <vm> <session> [text…]",
		Short: "Put a line, or standard input, into a session",
		Long: `Put input into a session without attaching to it: a line of text, or, without text, all
of standard input as it is. It arrives in one piece, whoever else types.`,
		Example: `  banger vm session send sandbox planner '{"type":"prompt","message":"hello"}'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(c, "vm session send takes a VM, a session, and text or standard input")
			}
			return nil
		},
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, args []string) error { return runVMSessionSend(c.Context(), o, d, args) },
	}
	c.Flags().BoolVar(&o.eof, "eof", false, "end the session's input after it")
	return c
}

func runVMSessionSend(ctx context.Context, o vmSessionSendOptions, d *deps, args []string) error {
	req := api.SendSession{EOF: o.eof}
	switch {
	case len(args) > 2:
		req.Data = []byte(strings.Join(args[2:], " ") + "\n")
	case !o.eof || !isTerminal(d.in):
		var err error
		if req.Data, err = readAtMost(d.in, maxSend); err != nil {
			return err
		}
	}
	return d.client.SendSession(ctx, args[0], args[1], req)
}
