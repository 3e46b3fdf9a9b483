package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

type vmSSHOptions struct {
	commandOptions
	ssh        sshOptions
	forwardKey string
	vm         string
	argv       []string
}

func newVMSSHCommand(d *deps) *cobra.Command {
	var o vmSSHOptions
	c := &cobra.Command{
		Use:   "ssh <vm> [flags] [-- command args…]",
		Short: "Open a shell in a running VM",
		Long: `Open a shell in a running VM with the host's ssh, through the daemon: the guest's
network is not needed, and its host key is known beforehand. Leaving the shell leaves
the VM running; so do Enter, then ~., when the guest does not answer any more. ssh's own
options go before --, as ssh takes them.

No key of your ssh-agent reaches the guest. --forward-key lets it use one: the key does not
go in, but a guest with it can log in wherever the key can, while you are connected.`,
		Example: `  banger vm ssh sandbox -L 5432:localhost:5432 -N
  banger vm ssh sandbox -o ServerAliveInterval=30 -- journalctl -f`,
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
	notBoth(c, "tty", "no-tty")
	c.Flags().StringVar(&o.forwardKey, "forward-key", "", "let the guest use this private `key` of yours, and no other")
	o.ssh.add(c)
	return c
}

func runVMSSH(ctx context.Context, o vmSSHOptions, d *deps) error {
	vm, err := d.client.VM(ctx, o.vm)
	if err == nil {
		err = d.reachable(ctx, vm)
	}
	if err != nil {
		return err
	}
	options := o.ssh.args()
	if o.forwardKey != "" {
		forward, done, err := forwardKey(ctx, o.forwardKey)
		if err != nil {
			return err
		}
		defer done()
		options = append(options, forward...)
	}
	if terminal := o.sshTerminal(); terminal != "" {
		options = append(options, terminal)
	}
	return d.runSSHWith(ctx, vm, options, remoteCommand(o.argv))
}

// reachable says in bangerd's words what ssh, whose connection bangerd refuses, would
// say in its own and with its own status.
func (d *deps) reachable(ctx context.Context, vm api.VM) error {
	if vm.State == api.StateRunning {
		return nil
	}
	stream, err := d.client.SSH(ctx, vm.ID)
	if err == nil {
		err = stream.Close()
	}
	return err
}

type vmSSHProxyOptions struct {
	host       bool
	agent      string
	forwardKey string
}

// newVMSSHProxyCommand is what ssh itself calls: the connection to the guest's
// SSH server on stdin and stdout.
func newVMSSHProxyCommand(d *deps) *cobra.Command {
	var o vmSSHProxyOptions
	c := &cobra.Command{
		Use:    "ssh-proxy <vm>",
		Short:  "Connect stdin and stdout to a VM's SSH server (for ssh's ProxyCommand)",
		Hidden: true,
		Args:   one("a VM"),
		RunE:   func(c *cobra.Command, args []string) error { return runVMSSHProxy(c.Context(), o, d, args[0]) },
	}
	c.Flags().BoolVar(&o.host, "host", false, "the VM is given as ssh names it")
	c.Flags().StringVar(&o.agent, "agent", "", "serve the key at this `socket` meanwhile")
	c.Flags().StringVar(&o.forwardKey, "forward-key", "", "the private `key` to serve")
	return c
}

func runVMSSHProxy(ctx context.Context, o vmSSHProxyOptions, d *deps, vm string) error {
	if o.host {
		vm = strings.TrimPrefix(vm, hostPrefix)
	}
	if o.agent != "" {
		key, err := openKey(o.forwardKey)
		if err != nil {
			return err
		}
		if err := key.serve(ctx, o.agent); err != nil {
			return err
		}
	}
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
