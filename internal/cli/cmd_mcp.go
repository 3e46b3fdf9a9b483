package cli

import (
	"io"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/mcptools"
)

func newMCPCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:   "mcp",
		Short: "Serve the Model Context Protocol on standard input and output",
		Long: `Serve the Model Context Protocol on standard input and output: tools for a model that
make and delete sandboxes, run commands and sessions in them, and read and write their
files. The
program that talks to the model starts it, with this in its settings:

  {"mcpServers": {"banger": {"command": "banger", "args": ["mcp"]}}}

A sandbox that a model makes does not get your credentials unless it asks for them.`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			return mcptools.Serve(c.Context(), d.client, d.in, unclosed{d.out})
		},
	}
}

// unclosed keeps standard output open for what comes after.
type unclosed struct{ io.Writer }

// Close implements io.Closer.
func (unclosed) Close() error { return nil }
