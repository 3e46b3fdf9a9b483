package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/workspace"
)

type vmRunOptions struct {
	machineOptions
	commandOptions
	remove    bool
	branch    string
	from      string
	guestPath string
	noTooling bool
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

With a path the repository there goes in first, as it is: tracked files and untracked
ones that are not ignored, with a .git of its own, at /root/ and its name; the command
or the shell runs there. ` + "`banger vm workspace`" + ` shows the work and brings it back. With
--rm, work that is new is saved to the branch banger/<vm> before the VM goes.

Without, the command sees the guest's files, not the host's. A first interrupt (Ctrl-C) goes
to the command, a second one gives up waiting for it.`,
		Example: `  banger vm run --name sandbox
  banger vm run --rm -- sh -c 'uname -a; cat /etc/os-release'
  banger vm run ./repo -- make test`,
		Args: func(c *cobra.Command, args []string) error { return o.parse(c, args) },
		RunE: func(c *cobra.Command, _ []string) error {
			return runVMRun(c.Context(), o, d)
		},
	}
	o.machineOptions.add(c, d)
	o.commandOptions.add(c)
	c.Flags().BoolVar(&o.remove, "rm", false, "delete the VM when the command or the shell ends")
	c.Flags().StringVar(&o.branch, "branch", "", "with a path: the `branch` to make in the guest for the work")
	c.Flags().StringVar(&o.from, "from", "", "with a path: the `commit` whose files go in, instead of the work tree's")
	c.Flags().StringVar(&o.guestPath, "guest-path", "", "with a path: its `place` in the guest (default: /root/ and its name)")
	c.Flags().BoolVar(&o.noTooling, "no-tooling", false, "with a path: do not let mise install the tools that the repository names")
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
	case o.guestPath != "" || o.noTooling:
		return usage(c, "--guest-path and --no-tooling need the path of a repository or a directory")
	}
	return nil
}

func runVMRun(ctx context.Context, o vmRunOptions, d *deps) error {
	create, err := o.machineOptions.request()
	if err != nil {
		return err
	}
	command, err := o.commandOptions.request(d, o.argv)
	if err != nil {
		return err
	}
	source, guest, err := o.openWorkspace(ctx)
	if err != nil {
		return err
	}
	if source != nil {
		defer source.Close()
	}
	create.Wait, create.Remove = command.Wait, o.remove
	created, err := d.create(ctx, create, false)
	if err != nil {
		return err
	}
	if source != nil {
		target := workspace.Target{Guest: guest, Tooling: !o.noTooling}
		_, err = d.putWorkspace(ctx, source, created.VM, target, false)
	}
	if err == nil {
		if source != nil {
			created.VM.Workspaces = []api.Workspace{{Guest: guest, Host: source.Path}}
			command.Cwd = cmp.Or(command.Cwd, guest)
		}
		err = o.session(ctx, d, created.VM, command)
	}
	if o.remove {
		return d.endSession(created, err)
	}
	d.sayItStays(created.VM)
	return err
}

// openWorkspace looks at the path, before there is a VM. It gives nil where
// there is none.
func (o vmRunOptions) openWorkspace(ctx context.Context) (*workspace.Source, string, error) {
	if o.workspace == "" {
		return nil, "", nil
	}
	source, err := workspace.Open(ctx, o.workspace, workspace.Options{Branch: o.branch, From: o.from})
	if err != nil {
		return nil, "", err
	}
	guest, err := guestPath(o.guestPath, source.Name())
	if err != nil {
		source.Close()
	}
	return source, guest, err
}

// session runs the command, or a shell.
func (o vmRunOptions) session(ctx context.Context, d *deps, vm api.VM, command api.ExecRequest) error {
	switch {
	case len(o.argv) > 0 || vm.NoShell: // without words: what the image names
		return d.runCommand(ctx, vm, command)
	case len(vm.Workspaces) == 0:
		return d.runSSH(ctx, vm, o.sshTerminal(), nil)
	}
	terminal := o.sshTerminal()
	if terminal == "" && isTerminal(d.in) {
		terminal = "-t" // ssh gives none to a command by itself
	}
	return d.runSSH(ctx, vm, terminal, []string{"cd -- " + quote(command.Cwd) + ` && exec "${SHELL:-/bin/sh}" -l`})
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

// endSession saves the work of the VM's workspaces and deletes it, whatever
// happened before: that is in ended, and is given back. Where the deletion fails
// the daemon does it, now that the session's stream ends, or the next daemon.
// Where the work can't be saved, the VM stays.
func (d *deps) endSession(created *client.Created, ended error) error {
	defer created.Close()
	if err := d.saveAtEnd(created.VM); err != nil {
		fmt.Fprintf(d.errs, "banger: warning: the work in %s could not be saved, so the VM was kept: %s\n", created.VM.Name, ui.Clean(err.Error()))
		fmt.Fprintf(d.errs, "  `banger vm workspace pull %s` tries again, `banger vm delete --force %s` throws it away\n", created.VM.Name, created.VM.Name)
		if ended == nil {
			return exitStatus(exitBanger)
		}
		return ended
	}
	ctx, cancel := context.WithTimeout(context.Background(), deleteTime)
	defer cancel()
	err := d.client.ForceDeleteVM(ctx, created.VM.ID, nil)
	var told *api.Error
	if err != nil && !(errors.As(err, &told) && told.Kind == api.KindNotFound) {
		fmt.Fprintf(d.errs, "banger: warning: %s is still being deleted: %v\n", created.VM.Name, err)
		return ended
	}
	_ = d.workspaces().Forget(created.VM.ID) // else the next one that goes in sweeps it away
	return ended
}

// saveAtEnd saves as long as it takes, or until a further signal.
func (d *deps) saveAtEnd(vm api.VM) error {
	ctx, done := d.interruptible()
	defer done()
	err := d.saveWork(ctx, vm)
	var told *api.Error
	if errors.As(err, &told) && told.Kind == api.KindNotFound {
		if _, gone := d.client.VM(ctx, vm.ID); gone != nil {
			return nil // it was deleted meanwhile
		}
	}
	return err
}

// sayItStays tells a person where the VM went. A program has asked for nothing
// of the kind.
func (d *deps) sayItStays(vm api.VM) {
	if isTerminal(d.errs) {
		fmt.Fprintf(d.errs, "%s is still running: `banger vm ssh %s` enters it, `banger vm delete %s` deletes it.\n", vm.Name, vm.Name, vm.Name)
		if len(vm.Workspaces) > 0 {
			fmt.Fprintf(d.errs, "`banger vm workspace pull %s` brings the work in it to the branch %s.\n", vm.Name, branchOf(vm))
		}
	}
}
