package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type vmDeleteOptions struct {
	force bool
	save  bool
}

func newVMDeleteCommand(d *deps) *cobra.Command {
	var o vmDeleteOptions
	c := &cobra.Command{
		Use:     "delete <vm>…",
		Aliases: []string{"rm"},
		Short:   "Delete VMs and their disks, running or not",
		Long: `Delete VMs and their disks, running or not. A VM with a workspace whose work has not
come back is not deleted, unless --save brings it first or --force says that it may go.
One with a workspace that is stopped is started to look.`,
		Args:              some("VMs"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMDelete(c.Context(), o, d, args) },
	}
	c.Flags().BoolVar(&o.force, "force", false, "also with work that has not come back")
	c.Flags().BoolVar(&o.save, "save", false, "first bring the work back, on the branch banger/<vm>")
	notBoth(c, "force", "save")
	return c
}

func runVMDelete(ctx context.Context, o vmDeleteOptions, d *deps, vms []string) error {
	return d.eachTold("deleted", vms, func(name string) error { return d.deleteVM(ctx, o, name) })
}

func (d *deps) deleteVM(ctx context.Context, o vmDeleteOptions, name string) error {
	vm, err := d.client.VM(ctx, name)
	var told *api.Error
	if errors.As(err, &told) && told.Kind == api.KindNotFound {
		return d.client.DeleteVM(ctx, name, nil) // the daemon knows whether it was deleted before
	}
	if err != nil {
		return err
	}
	if len(vm.Workspaces) > 0 && !o.force {
		if err := d.checkWork(ctx, o, vm); err != nil {
			return err
		}
	}
	progress := d.progress(false)
	defer progress.Done()
	if len(vm.Workspaces) == 0 {
		return d.client.DeleteVM(ctx, vm.ID, progress.Step)
	}
	if err := d.client.ForceDeleteVM(ctx, vm.ID, progress.Step); err != nil {
		return err
	}
	return d.workspaces().Forget(vm.ID)
}

// checkWork refuses when work would be lost, or saves it. A VM that does not
// run is started for it, since nothing but its guest can tell what is on its
// disk by now; where it stays, it is stopped again.
func (d *deps) checkWork(ctx context.Context, o vmDeleteOptions, vm api.VM) error {
	if vm.State == api.StateRunning {
		return d.checkRunning(ctx, o, vm)
	}
	if vm.State != api.StateStopped && vm.State != api.StateFailed {
		return &api.Error{Kind: api.KindWrongState,
			Message: fmt.Sprintf("%s is %s, so nobody can look whether the work in %s has come back", vm.Name, vm.State, vm.Workspaces[0].Guest),
			Hint:    fmt.Sprintf("try again when it runs or is stopped, or `banger vm delete --force %s`", vm.Name)}
	}
	err := d.startToLook(ctx, vm)
	if err == nil {
		err = d.checkRunning(ctx, o, vm)
	}
	if err != nil {
		// It is as it was before, also for somebody who did not want to wait.
		_, stopped := d.client.StopVM(context.WithoutCancel(ctx), vm.ID, api.StopRequest{}, nil)
		err = errors.Join(err, stopped)
	}
	return err
}

func (d *deps) startToLook(ctx context.Context, vm api.VM) error {
	fmt.Fprintf(d.errs, "banger: %s is %s: it is started to see whether the work in it has come back\n", vm.Name, vm.State)
	progress := d.progress(false)
	defer progress.Done()
	_, err := d.client.StartVM(ctx, vm.ID, api.StartRequest{Wait: api.WaitAgent}, progress.Step)
	return hintForce(err, vm)
}

// checkRunning is checkWork for a guest that can be asked.
func (d *deps) checkRunning(ctx context.Context, o vmDeleteOptions, vm api.VM) error {
	if o.save {
		return d.saveWork(ctx, vm)
	}
	for _, w := range vm.Workspaces {
		unsaved, err := d.unsaved(ctx, vm, w.Guest)
		if err != nil {
			return err
		}
		if unsaved != "" {
			return &api.Error{Kind: api.KindWrongState,
				Message: fmt.Sprintf("%s has work in %s that has not come back: %s", vm.Name, w.Guest, unsaved),
				Hint:    fmt.Sprintf("`banger vm delete --save %s` brings it to the branch %s first, --force throws it away, `banger vm workspace diff %s` shows it", vm.Name, branchOf(vm), vm.Name)}
		}
	}
	return nil
}

// unsaved says in a few words what would be lost; "" is nothing.
func (d *deps) unsaved(ctx context.Context, vm api.VM, guest string) (string, error) {
	c, err := d.lookAt(ctx, vm, guest)
	if err != nil {
		return "", hintForce(err, vm)
	}
	defer c.Close()
	if !c.Unsaved() {
		return "", nil
	}
	files, err := c.Files(ctx)
	if err != nil {
		return "", err
	}
	commits, err := c.Commits(ctx)
	if err != nil {
		return "", err
	}
	return count(len(files), "changed file") + ", " + count(len(commits), "commit"), nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprint(n, " ", what)
}

// hintForce says how to delete a VM whose guest can't be asked.
func hintForce(err error, vm api.VM) error {
	if err == nil {
		return nil
	}
	var told *api.Error
	if !errors.As(err, &told) {
		told = &api.Error{Kind: api.KindGuest, Message: err.Error()}
	}
	return &api.Error{Kind: told.Kind, Message: "cannot see whether the work in " + vm.Name + " has come back: " + told.Message,
		Hint: fmt.Sprintf("`banger vm delete --force %s` deletes it all the same", vm.Name)}
}

type vmPruneOptions struct{ json bool }

func newVMPruneCommand(d *deps) *cobra.Command {
	var o vmPruneOptions
	c := &cobra.Command{
		Use:   "prune",
		Short: "Delete every VM that is stopped or failed",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runVMPrune(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMPrune(ctx context.Context, o vmPruneOptions, d *deps) error {
	progress := d.progress(o.json)
	defer progress.Done()
	pruned, err := d.client.Prune(ctx, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, append([]string{}, pruned...))
	}
	for _, name := range pruned {
		fmt.Fprintln(d.out, ui.Clean(name))
	}
	return nil
}
