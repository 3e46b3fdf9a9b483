package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

// completion offers words to the shell.
type completion = func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective)

// completeFlag offers the values of a flag that the command has.
func completeFlag(c *cobra.Command, flag string, values completion) {
	if err := c.RegisterFlagCompletionFunc(flag, values); err != nil {
		panic(err) // no such flag, or one that has a completion
	}
}

func (d *deps) completeVMs(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return names(c.Context(), d, (*client.Client).VMs, func(v api.VM) string { return v.Name })
}

func (d *deps) completeVMThenPath(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
	return d.completeVMs(c, nil, "")
}

func (d *deps) completeImages(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return names(c.Context(), d, (*client.Client).Images, func(i api.Image) string { return i.Name })
}

func (d *deps) completeKernels(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return names(c.Context(), d, (*client.Client).Kernels, func(k api.Kernel) string { return k.Name })
}

// completeSessions offers VMs, then the sessions of the one that was chosen.
func (d *deps) completeSessions(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return d.completeVMs(c, args, word)
	}
	list := func(quiet *client.Client, ctx context.Context) ([]api.Session, error) {
		return quiet.Sessions(ctx, args[0])
	}
	return names(c.Context(), d, list, func(s api.Session) string { return s.Name })
}

// names asks the daemon that runs; it starts none for a press of a key.
func names[T any](ctx context.Context, d *deps, list func(*client.Client, context.Context) ([]T, error), name func(T) string) ([]cobra.Completion, cobra.ShellCompDirective) {
	quiet := d.client.NeverStart()
	defer quiet.Close()
	things, err := list(quiet, ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	words := make([]cobra.Completion, len(things))
	for i, thing := range things {
		words[i] = name(thing)
	}
	return words, cobra.ShellCompDirectiveNoFileComp
}
