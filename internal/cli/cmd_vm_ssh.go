package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

type vmSSHOptions struct {
	commandOptions
	vm   string
	argv []string
}

func newVMSSHCommand(d *deps) *cobra.Command {
	var o vmSSHOptions
	c := &cobra.Command{
		Use:   "ssh <vm> [flags] [-- command args…]",
		Short: "Open a shell in a running VM",
		Long: `Open a shell in a running VM with the host's ssh, through the daemon: the guest's
network is not needed, and its host key is known beforehand. Leaving the shell leaves
the VM running.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 || len(args) > 1 && c.ArgsLenAtDash() != 1 {
				return usage(c, "vm ssh takes a VM, and a command after --")
			}
			o.vm, o.argv = args[0], args[1:]
			return nil
		},
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMSSH(c.Context(), o, d) },
	}
	c.Flags().BoolVarP(&o.terminal, "tty", "t", false, "give the command a terminal")
	c.Flags().BoolVarP(&o.noTerminal, "no-tty", "T", false, "give no terminal")
	c.MarkFlagsMutuallyExclusive("tty", "no-tty")
	return c
}

func runVMSSH(ctx context.Context, o vmSSHOptions, d *deps) error {
	vm, err := d.client.VM(ctx, o.vm)
	if err != nil {
		return err
	}
	return d.runSSH(ctx, vm, o.sshTerminal(), remoteCommand(o.argv))
}

// newVMSSHProxyCommand is what ssh itself calls: the connection to the guest's
// SSH server on stdin and stdout.
func newVMSSHProxyCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:    "ssh-proxy <vm>",
		Short:  "Connect stdin and stdout to a VM's SSH server (for ssh's ProxyCommand)",
		Hidden: true,
		Args:   one("a VM"),
		RunE:   func(c *cobra.Command, args []string) error { return runVMSSHProxy(c.Context(), args[0], d) },
	}
}

func runVMSSHProxy(ctx context.Context, vm string, d *deps) error {
	stream, err := d.client.SSH(ctx, vm)
	if err != nil {
		return err
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { stream.Close() })()
	go func() {
		if _, err := io.Copy(stream, d.in); err == nil {
			_ = stream.CloseWrite()
		}
	}()
	if _, err := io.Copy(d.out, stream); err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot carry the connection: %w", err)
	}
	return nil // ssh hangs up on it when it is done: that is no interruption
}
