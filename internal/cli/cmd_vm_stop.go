package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

type vmStopOptions struct {
	timeout time.Duration
	force   bool
	json    bool
}

func newVMStopCommand(d *deps) *cobra.Command {
	var o vmStopOptions
	c := &cobra.Command{
		Use:   "stop <vm>…",
		Short: "Shut VMs down; their disks stay",
		Long: `Shut VMs down: the guest's init stops its services, the disk is synced, then the VM
ends. One that does not come to an end in time is killed.`,
		Args:              some("VMs"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMStop(c.Context(), o, d, args) },
	}
	c.Flags().DurationVar(&o.timeout, "timeout", 0, "how much `time` the guest may take, like 30s (default 90s)")
	c.Flags().BoolVar(&o.force, "force", false, "end it at once, like pulling the plug")
	addJSON(c, &o.json)
	return c
}

func runVMStop(ctx context.Context, o vmStopOptions, d *deps, vms []string) error {
	if o.timeout < 0 {
		return bad("", "--timeout %s: it can't be negative", o.timeout)
	}
	return each(vms, func(name string) error {
		return d.changeVM(o.json, func(report client.Report) (api.VM, error) {
			return d.client.StopVM(ctx, name, api.StopRequest{Timeout: o.timeout, Force: o.force}, report)
		})
	})
}
