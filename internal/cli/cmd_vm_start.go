package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

type vmStartOptions struct {
	wait string
	json bool
}

func newVMStartCommand(d *deps) *cobra.Command {
	var o vmStartOptions
	c := &cobra.Command{
		Use:               "start <vm>…",
		Short:             "Start VMs",
		Long:              "Start VMs, and wait until they are ready. One that runs already is left as it is.",
		Args:              some("VMs"),
		ValidArgsFunction: d.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			return runVMStart(c.Context(), o, d, args, d.client.StartVM)
		},
	}
	o.add(c)
	return c
}

func newVMRestartCommand(d *deps) *cobra.Command {
	var o vmStartOptions
	c := &cobra.Command{
		Use:               "restart <vm>…",
		Short:             "Stop VMs and start them again",
		Args:              some("VMs"),
		ValidArgsFunction: d.completeVMs,
		RunE: func(c *cobra.Command, args []string) error {
			return runVMStart(c.Context(), o, d, args, d.client.RestartVM)
		},
	}
	o.add(c)
	return c
}

func (o *vmStartOptions) add(c *cobra.Command) {
	addWait(c, &o.wait)
	addJSON(c, &o.json)
}

// starter is a call that ends with a running VM.
type starter func(ctx context.Context, vm string, req api.StartRequest, report client.Report) (api.VM, error)

func runVMStart(ctx context.Context, o vmStartOptions, d *deps, vms []string, start starter) error {
	wait, err := parseWait(o.wait)
	if err != nil {
		return err
	}
	return each(vms, func(name string) error {
		return d.changeVM(o.json, func(report client.Report) (api.VM, error) {
			vm, err := start(ctx, name, api.StartRequest{Wait: wait}, report)
			return vm, hintWedged(err, name)
		})
	})
}

// changeVM shows a change's progress and then the VM.
func (d *deps) changeVM(asJSON bool, change func(client.Report) (api.VM, error)) error {
	progress := d.progress(asJSON)
	defer progress.Done()
	vm, err := change(progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	return d.printVM(vm, asJSON)
}
