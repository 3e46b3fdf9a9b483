package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/workspace"
)

type vmWorkspacePrepareOptions struct {
	guestPath string
	noTooling bool
	force     bool
	json      bool
}

func newVMWorkspacePrepareCommand(d *deps) *cobra.Command {
	var o vmWorkspacePrepareOptions
	c := &cobra.Command{
		Use:   "prepare <vm> <path>",
		Short: "Bring a repository or a directory into a VM",
		Long: `Bring the work tree of a repository into a running VM, as it is: tracked files and
untracked ones that are not ignored, uncommitted changes too, and a .git of its own. A
path that is no repository goes in whole, but for what .bangerignore names.

Again for the same place, only what changed here travels. Where the guest has changed
the same files, nothing is done.`,
		Example:           "  banger vm workspace prepare sandbox ./repo",
		Args:              two("a VM and a path"),
		ValidArgsFunction: d.completeVMThenPath,
		RunE: func(c *cobra.Command, args []string) error {
			return runVMWorkspacePrepare(c.Context(), o, d, args[0], args[1])
		},
	}
	c.Flags().StringVar(&o.guestPath, "guest-path", "", "`place` in the guest (default: /root/ and the directory's name)")
	c.Flags().BoolVar(&o.noTooling, "no-tooling", false, "do not let mise install the tools that the repository names")
	c.Flags().BoolVar(&o.force, "force", false, "put it over whatever the guest has there, its own work too")
	addJSON(c, &o.json)
	return c
}

func runVMWorkspacePrepare(ctx context.Context, o vmWorkspacePrepareOptions, d *deps, name, path string) error {
	source, err := workspace.Open(ctx, path, workspace.Options{})
	if err != nil {
		return err
	}
	defer source.Close()
	guest, err := guestPath(o.guestPath, source.Name())
	if err != nil {
		return err
	}
	vm, err := d.client.VM(ctx, name)
	if err != nil {
		return err
	}
	sum, err := d.putWorkspace(ctx, source, vm, workspace.Target{Guest: guest, Force: o.force, Tooling: !o.noTooling}, o.json)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, sum)
	}
	_, err = fmt.Fprintf(d.out, "%s: %d files, %s in %s%s\n", ui.Clean(sum.Guest), sum.Files, ui.Bytes(sum.Bytes), sum.Took.Round(10*time.Millisecond), removed(sum.Removed))
	return err
}

func removed(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d removed", n)
}
