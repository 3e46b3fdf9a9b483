package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/workspace"
)

func (d *deps) workspaces() workspace.Store { return workspace.Store{Dir: d.paths.Workspaces()} }

// guestPath is where a workspace goes: below root's home, unless said otherwise.
func guestPath(asked, name string) (string, error) {
	if asked == "" {
		return "/root/" + name, nil
	}
	if !path.IsAbs(asked) || path.Clean(asked) == "/" {
		return "", bad("it is an absolute path of the guest, like /root/repo", "--guest-path %s is no place for a workspace", asked)
	}
	return path.Clean(asked), nil
}

// branchOf is the branch of the host that a VM's work comes back on.
func branchOf(vm api.VM) string { return "banger/" + vm.Name }

// putWorkspace brings a directory into a VM and shows how it comes along.
func (d *deps) putWorkspace(ctx context.Context, source *workspace.Source, vm api.VM, t workspace.Target, asJSON bool) (workspace.Summary, error) {
	d.sweepWorkspaces(ctx)
	progress := d.progress(asJSON)
	defer progress.Done()
	t.VM, t.Name = vm.ID, vm.Name
	t.Dial = func(ctx context.Context) (io.ReadWriteCloser, error) { return d.client.Workspace(ctx, vm.ID) }
	t.Announce = func(ctx context.Context) error {
		return d.client.AddWorkspace(ctx, vm.ID, api.Workspace{Guest: t.Guest, Host: source.Path})
	}
	progress.Step(api.StepEvent{Name: "workspace.copy"})
	sum, err := source.Put(ctx, d.workspaces(), t, func(done, total int64) {
		progress.Step(api.StepEvent{Name: "workspace.copy", Done: done, Total: total})
	})
	return sum, explainPut(err, vm, t.Guest)
}

// sweepWorkspaces forgets those of VMs that are no more. What can't be forgotten
// now is so the next time.
func (d *deps) sweepWorkspaces(ctx context.Context) {
	vms, err := d.client.VMs(ctx)
	if err != nil {
		return
	}
	ids := make([]string, len(vms))
	for i, v := range vms {
		ids[i] = v.ID
	}
	_ = d.workspaces().Sweep(ids)
}

// explainPut says what a guest's refusal means and how to go on.
func explainPut(err error, vm api.VM, guest string) error {
	var refused *workspace.Refused
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Kind {
	case workspace.Conflict:
		return &api.Error{Kind: api.KindWrongState,
			Message: fmt.Sprintf("the guest has work of its own where the host has changed: %s; nothing was changed", strings.Join(refused.Conflicts, ", ")),
			Hint:    fmt.Sprintf("`banger vm workspace pull %s` brings it to the host first; --force throws it away", vm.Name)}
	case workspace.Full:
		return &api.Error{Kind: api.KindNoSpace, Message: refused.Message, Hint: "make room in the guest, or make a VM with a larger --disk"}
	case workspace.Exists:
		return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("%s: %s", vm.Name, refused.Message),
			Hint: "--guest-path takes another place; --force of `banger vm workspace prepare` replaces it"}
	}
	return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("cannot bring the workspace to %s in %s: %s", guest, vm.Name, refused.Message),
		Hint: fmt.Sprintf("`banger vm logs %s` may tell more", vm.Name)}
}

// lookAt asks a VM's guest what is new in a workspace.
func (d *deps) lookAt(ctx context.Context, vm api.VM, guest string) (*workspace.Changes, error) {
	c, err := d.workspaces().Look(ctx, vm.ID, guest, func(ctx context.Context) (io.ReadWriteCloser, error) {
		return d.client.Workspace(ctx, vm.ID)
	})
	if errors.Is(err, workspace.ErrUnknown) {
		return nil, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("nothing is known on this host of what went into %s of %s", guest, vm.Name),
			Hint: fmt.Sprintf("`banger vm ssh %s` shows what is there", vm.Name)}
	}
	return c, err
}

// chooseWorkspace finds the workspace that is meant: the only one, or that at
// the path.
func chooseWorkspace(vm api.VM, guest string) (string, error) {
	var all []string
	for _, w := range vm.Workspaces {
		if w.Guest == guest {
			return guest, nil
		}
		all = append(all, w.Guest)
	}
	switch {
	case len(all) == 0:
		return "", &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("%s has no workspace", vm.Name),
			Hint: fmt.Sprintf("`banger vm workspace prepare %s ./repo` brings one in", vm.Name)}
	case guest != "":
		return "", &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("%s has no workspace at %s", vm.Name, guest), Hint: "there is " + strings.Join(all, ", ")}
	case len(all) > 1:
		return "", bad("say which with --guest-path: "+strings.Join(all, ", "), "%s has %d workspaces", vm.Name, len(all))
	}
	return all[0], nil
}

// tell says in a sentence each where work went, and names what runs by itself.
func (d *deps) tell(ctx context.Context, c *workspace.Changes, pulled []workspace.Pulled) error {
	for _, p := range pulled {
		fmt.Fprintf(d.errs, "banger: the work of %s is on the branch %s of %s (%.12s)\n", ui.Clean(c.Guest()), ui.Clean(p.Branch), ui.Clean(p.Dir), p.Commit)
		if p.Nowhere {
			fmt.Fprintf(d.errs, "  the directory is in no repository, so banger has made one for it: git clone -b %s %s\n", quote(p.Branch), quote(p.Dir))
		}
		if p.Before != "" {
			fmt.Fprintf(d.errs, "  the branch was at %.12s before, which is not in its history now: git branch <name> %.12s keeps that\n", p.Before, p.Before)
		}
	}
	found, err := c.Risks(ctx)
	if err != nil || len(found) == 0 {
		return err
	}
	fmt.Fprintln(d.errs, "banger: warning: the guest has changed what RUNS BY ITSELF; look at it before you check it out:")
	for _, r := range found {
		fmt.Fprintf(d.errs, "  %s (%s)\n", ui.Clean(r.Path), r.What)
	}
	return nil
}

// saveWork brings the unsaved work of all of a VM's workspaces to the host.
func (d *deps) saveWork(ctx context.Context, vm api.VM) error {
	for _, w := range vm.Workspaces {
		if err := d.saveOne(ctx, vm, w.Guest); err != nil {
			return err
		}
	}
	return nil
}

func (d *deps) saveOne(ctx context.Context, vm api.VM, guest string) error {
	progress := d.progress(false)
	defer progress.Done()
	progress.Step(api.StepEvent{Name: "workspace.save"})
	c, err := d.lookAt(ctx, vm, guest)
	if err != nil {
		return err
	}
	defer c.Close()
	if !c.Unsaved() {
		return nil
	}
	pulled, err := c.Pull(ctx, d.workspaces(), branchOf(vm))
	progress.Done()
	return errors.Join(err, d.tell(ctx, c, pulled))
}

// interruptible gives a context that the next signal ends, whatever was before.
func (d *deps) interruptible() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	restore := d.interrupts.divert(func(syscall.Signal) { cancel() })
	return ctx, func() { restore(); cancel() }
}
