package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/workspace"
)

type vmWorkspacePullOptions struct {
	guestPath string
	branch    string
	apply     bool
	conflicts bool
	json      bool
}

func newVMWorkspacePullCommand(d *deps) *cobra.Command {
	var o vmWorkspacePullOptions
	c := &cobra.Command{
		Use:   "pull <vm>",
		Short: "Bring the work of a VM's workspace back, on a branch of its own",
		Long: `Bring what was done in a VM's workspace to the repository it came from, as commits on
the branch banger/<vm>: those that were made in the guest, and one with what was not
committed there. The work tree and the current branch are not touched.

With --apply the changes also go into the work tree, uncommitted, if all of them fit.`,
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMWorkspacePull(c.Context(), o, d, args[0]) },
	}
	addWorkspacePath(c, &o.guestPath)
	c.Flags().StringVar(&o.branch, "branch", "", "`branch` to bring it on (default: banger/ and the VM's name)")
	c.Flags().BoolVar(&o.apply, "apply", false, "bring it into the work tree too, if it fits")
	c.Flags().BoolVar(&o.conflicts, "conflicts", false, "with --apply: also if it does not fit, with git's marks where it does not")
	addJSON(c, &o.json)
	return c
}

// workspacePull is what `vm workspace pull --json` prints.
type workspacePull struct {
	Pulled  []workspace.Pulled `json:"pulled"`
	Risks   []workspace.Risk   `json:"runs_by_itself"`
	Applied bool               `json:"applied"`
}

func runVMWorkspacePull(ctx context.Context, o vmWorkspacePullOptions, d *deps, name string) error {
	if o.conflicts && !o.apply {
		return bad("", "--conflicts is for --apply")
	}
	vm, err := d.client.VM(ctx, name)
	if err != nil {
		return err
	}
	c, err := d.lookAtNamed(ctx, name, o.guestPath)
	if err != nil {
		return err
	}
	defer c.Close()
	if o.branch == "" {
		o.branch = branchOf(vm)
	}
	pulled, err := c.Pull(ctx, d.workspaces(), o.branch)
	if err != nil {
		return err
	}
	if !o.json {
		if err := d.tell(ctx, c, pulled); err != nil {
			return err
		}
		if len(pulled) == 0 {
			fmt.Fprintf(d.errs, "banger: nothing is new in %s of %s\n", ui.Clean(c.Guest()), vm.Name)
		}
	}
	if o.apply && len(pulled) > 0 {
		if err := o.bringIn(ctx, c); err != nil {
			return err
		}
	}
	if !o.json {
		return nil
	}
	found, err := c.Risks(ctx)
	if err != nil {
		return err
	}
	return ui.JSON(d.out, workspacePull{Pulled: append([]workspace.Pulled{}, pulled...), Risks: append([]workspace.Risk{}, found...), Applied: o.apply && len(pulled) > 0})
}

// bringIn brings the changes into the work tree.
func (o vmWorkspacePullOptions) bringIn(ctx context.Context, c *workspace.Changes) error {
	var err error
	if o.conflicts {
		err = c.Merge(ctx)
	} else {
		err = c.Apply(ctx)
	}
	var marked *workspace.Marked
	switch {
	case errors.As(err, &marked):
		return &api.Error{Kind: api.KindExists, Message: err.Error(), Hint: "resolve what is between <<<<<<< and >>>>>>>"}
	case errors.Is(err, workspace.ErrConflicts) && o.conflicts:
		return &api.Error{Kind: api.KindExists, Message: err.Error() + "; marks can't show that",
			Hint: "the work is on the branch " + o.branch + ": merge it"}
	case errors.Is(err, workspace.ErrConflicts):
		return &api.Error{Kind: api.KindExists, Message: err.Error() + "; the work tree was not touched",
			Hint: "the work is on the branch " + o.branch + ": merge it, or say --conflicts"}
	}
	return err
}
