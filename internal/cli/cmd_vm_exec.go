package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

type vmExecOptions struct {
	commandOptions
	vm   string
	argv []string
}

func newVMExecCommand(d *deps) *cobra.Command {
	var o vmExecOptions
	c := &cobra.Command{
		Use:     "exec <vm> [flags] -- command args…",
		Short:   "Run a command in a running VM",
		Long:    "Run a command in a running VM as root; its exit status is banger's.",
		Example: "  banger vm exec sandbox -- apt-get update",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 || c.ArgsLenAtDash() > 1 {
				return usage(c, "vm exec takes a VM, then -- and a command")
			}
			o.vm, o.argv = args[0], args[1:]
			return nil
		},
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMExec(c.Context(), o, d) },
	}
	o.commandOptions.add(c)
	return c
}

func runVMExec(ctx context.Context, o vmExecOptions, d *deps) error {
	req, err := o.request(d, o.argv)
	if err != nil {
		return err
	}
	// Whether there is such a VM, the exec itself says: one question less.
	return d.runCommand(ctx, api.VM{ID: o.vm, Name: o.vm}, req)
}
