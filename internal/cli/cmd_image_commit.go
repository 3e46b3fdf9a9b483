package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

type imageCommitOptions struct {
	name string
	json bool
}

func newImageCommitCommand(d *deps) *cobra.Command {
	var o imageCommitOptions
	c := &cobra.Command{
		Use:   "commit <vm> --name <image>",
		Short: "Make an image of a stopped VM's disk",
		Long: `Make an image of the disk of a VM that does not run; the VM stays. What identifies the
machine is left out: SSH host keys, the machine id, its name, its journal, and the
credentials that it had of you. What you put there yourself stays.`,
		Example:           "  banger image commit box --name box-ready",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runImageCommit(c.Context(), o, d, args[0]) },
	}
	c.Flags().StringVar(&o.name, "name", "", "the image's `name`")
	addJSON(c, &o.json)
	return c
}

func runImageCommit(ctx context.Context, o imageCommitOptions, d *deps, vm string) error {
	if o.name == "" {
		return bad(fmt.Sprintf("write `banger image commit %s --name %s-ready`", vm, vm), "an image needs --name")
	}
	progress := d.progress(o.json)
	image, err := d.client.CommitVM(ctx, vm, o.name, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, image)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(image.Name))
	return err
}
