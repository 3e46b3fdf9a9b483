package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
)

type vmSyncCredentialsOptions struct{ json bool }

func newVMSyncCredentialsCommand(d *deps) *cobra.Command {
	var o vmSyncCredentialsOptions
	c := &cobra.Command{
		Use:   "sync-credentials <vm>",
		Short: "Give a running VM your agents' credentials as they are now",
		Long: `Give a running VM the credentials of your coding agents as they are on this host now,
and print where they are in the guest. The same happens at each start. The guest keeps
them in its memory: its disk, and so an image made of it, never holds them.

They are ~/.local/share/opencode/auth.json, ~/.claude/.credentials.json and
~/.pi/agent/auth.json, and the files of [[credential_sync]] in the config.`,
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			return runVMSyncCredentials(c.Context(), o, d, args[0])
		},
	}
	addJSON(c, &o.json)
	return c
}

func runVMSyncCredentials(ctx context.Context, o vmSyncCredentialsOptions, d *deps, vm string) error {
	synced, err := d.client.SyncCredentials(ctx, vm)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, synced)
	}
	for _, refused := range synced.Refused {
		fmt.Fprintf(d.errs, "banger: warning: %s does not go into the guest: %s\n", ui.Clean(refused.Path), ui.Clean(refused.Why))
	}
	for _, path := range synced.Given {
		fmt.Fprintln(d.out, ui.Clean(path))
	}
	return nil
}
