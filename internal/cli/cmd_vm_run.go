package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

type vmRunOptions struct {
	machineOptions
	commandOptions
	remove    bool
	branch    string
	from      string
	workspace string   // the path before --
	argv      []string // the words after --
}

func newVMRunCommand(d *deps) *cobra.Command {
	var o vmRunOptions
	c := &cobra.Command{
		Use:   "run [path] [flags] [-- command args…]",
		Short: "Make a VM and run a command or a shell in it",
		Long: `Make a VM, start it and run a command in it as root; its exit status is banger's.
Without a command you get a shell over ssh. Leaving it leaves the VM running:
` + "`banger vm ssh`" + ` enters it again, ` + "`banger vm stop`" + ` and ` + "`banger vm delete`" + ` clean up.

The command sees the guest's files, not the host's. A first interrupt (Ctrl-C) goes
to the command, a second one gives up waiting for it.`,
		Example: `  banger vm run --name sandbox
  banger vm run --rm -- sh -c 'uname -a; cat /etc/os-release'
  tar c . | banger vm run --rm -- sh -c 'tar x && make test'`,
		Args: func(c *cobra.Command, args []string) error { return o.parse(c, args) },
		RunE: func(c *cobra.Command, _ []string) error {
			return runVMRun(c.Context(), o, d)
		},
	}
	o.machineOptions.add(c, d)
	o.commandOptions.add(c)
	c.Flags().BoolVar(&o.remove, "rm", false, "delete the VM when the command or the shell ends")
	c.Flags().StringVar(&o.branch, "branch", "", "with a path: the `branch` to make for the work")
	c.Flags().StringVar(&o.from, "from", "", "with a path: the `commit` to begin from")
	return c
}

// parse holds to the grammar: a path before --, a command after it.
func (o *vmRunOptions) parse(c *cobra.Command, args []string) error {
	before := args
	if dash := c.ArgsLenAtDash(); dash >= 0 {
		before, o.argv = args[:dash], args[dash:]
		if len(o.argv) == 0 {
			return usage(c, "there is no command after --")
		}
	}
	switch {
	case len(before) > 1:
		return bad(fmt.Sprintf("a command comes after --: `banger vm run -- %s …`", before[0]), "vm run takes one path before --, not %d", len(before))
	case len(before) == 1:
		o.workspace = before[0]
	case o.branch != "" || o.from != "":
		return usage(c, "--branch and --from need the path of a repository")
	}
	return nil
}

func runVMRun(ctx context.Context, o vmRunOptions, d *deps) error {
	if o.workspace != "" {
		return bad(fmt.Sprintf("to run a command called %s: `banger vm run -- %s`", o.workspace, o.workspace),
			"%q before -- is a workspace, and this version of banger has none yet", o.workspace)
	}
	create, err := o.machineOptions.request()
	if err != nil {
		return err
	}
	command, err := o.commandOptions.request(d, o.argv)
	if err != nil {
		return err
	}
	create.Wait, create.Remove = command.Wait, o.remove
	created, err := d.create(ctx, create, false)
	if err != nil {
		return err
	}
	if o.remove {
		defer d.endSession(created)
	}
	if len(o.argv) > 0 {
		err = d.runCommand(ctx, created.VM, command)
	} else {
		err = d.runSSH(ctx, created.VM, o.sshTerminal(), nil)
	}
	if !o.remove {
		d.sayItStays(created.VM)
	}
	return err
}

// sshTerminal is ssh's own flag for a terminal. Without one of ours ssh
// decides by what it is given.
func (o commandOptions) sshTerminal() string {
	switch {
	case o.terminal:
		return "-tt"
	case o.noTerminal:
		return "-T"
	}
	return ""
}

// deleteTime is how long the clean-up after a session may take. It has a
// context of its own: the Ctrl-C that ended the session must not end it too.
const deleteTime = 10 * time.Second

// endSession deletes the VM whatever happened before. Where that fails the
// daemon does it, now that the session's stream ends, or the next daemon.
func (d *deps) endSession(created *client.Created) {
	ctx, cancel := context.WithTimeout(context.Background(), deleteTime)
	defer cancel()
	err := d.client.DeleteVM(ctx, created.VM.ID, nil)
	created.Close()
	var told *api.Error
	if errors.As(err, &told) && told.Kind == api.KindNotFound {
		return
	}
	if err != nil {
		fmt.Fprintf(d.errs, "banger: warning: %s is still being deleted: %v\n", created.VM.Name, err)
	}
}

// sayItStays tells a person where the VM went. A program has asked for nothing
// of the kind.
func (d *deps) sayItStays(vm api.VM) {
	if isTerminal(d.errs) {
		fmt.Fprintf(d.errs, "%s is still running: `banger vm ssh %s` enters it, `banger vm delete %s` deletes it.\n", vm.Name, vm.Name, vm.Name)
	}
}
