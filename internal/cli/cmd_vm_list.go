package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type vmListOptions struct{ json bool }

func newVMListCommand(d *deps) *cobra.Command {
	var o vmListOptions
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the VMs",
		Args:    none,
		RunE:    func(c *cobra.Command, _ []string) error { return runVMList(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMList(ctx context.Context, o vmListOptions, d *deps) error {
	vms, err := d.client.VMs(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, vms)
	}
	if len(vms) == 0 && isTerminal(d.out) {
		fmt.Fprintln(d.errs, "there are no VMs: `banger vm run` makes one and opens a shell in it")
		return nil
	}
	return vmsTable(vms, time.Now()).Write(d.out)
}

// reasonLimit is how much of a reason the list shows; `vm show` has all of it.
const reasonLimit = 120

// vmsTable has the reasons last: they are of any length, and have spaces in them.
func vmsTable(vms []api.VM, now time.Time) *ui.Table {
	table := ui.NewTable("NAME", "STATE", "IMAGE", "VCPUS", "MEMORY", "DISK USED", "ADDRESS", "AGE", "REASON")
	for _, vm := range vms {
		table.Row(vm.Name, string(vm.State), vm.Image, strconv.Itoa(vm.VCPUs), ui.Bytes(vm.MemoryMiB<<20),
			ui.Bytes(vm.DiskUsed), ui.Or(vm.Address), ui.Age(now, vm.Created), ui.Or(ui.Brief(vm.Reason, reasonLimit)))
	}
	return table
}

type vmShowOptions struct{ json bool }

func newVMShowCommand(d *deps) *cobra.Command {
	var o vmShowOptions
	c := &cobra.Command{
		Use:               "show <vm>",
		Short:             "Show all that is known of a VM",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMShow(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMShow(ctx context.Context, o vmShowOptions, d *deps, name string) error {
	vm, err := d.client.VM(ctx, name)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, vm)
	}
	return vmTable(vm).Write(d.out)
}

func vmTable(vm api.VM) *ui.Table {
	table := ui.NewTable()
	table.Row("name", vm.Name)
	table.Row("id", vm.ID)
	table.Row("state", string(vm.State)+because(vm.Reason))
	if vm.Step != "" {
		table.Row("step", ui.Phrase(vm.Step))
	}
	if vm.Warning != "" {
		table.Row("warning", vm.Warning)
	}
	table.Row("image", vm.Image)
	table.Row("kernel", vm.Kernel)
	table.Row("vcpus", strconv.Itoa(vm.VCPUs))
	table.Row("memory", ui.Bytes(vm.MemoryMiB<<20))
	table.Row("disk", ui.Bytes(vm.DiskMiB<<20)+", "+ui.Bytes(vm.DiskUsed)+" used on the host")
	table.Row("address", ui.Or(vm.Address))
	table.Row("mac", ui.Or(vm.MAC))
	for _, p := range vm.Ports {
		table.Row("port", lead(p))
	}
	table.Row("created", moment(vm.Created))
	table.Row("started", moment(vm.Started))
	if vm.Remove {
		table.Row("removal", "when its session ends")
	}
	if vm.VMM != nil {
		table.Row("vmm", vm.VMM.Binary+" "+vm.VMM.Version+", process "+strconv.Itoa(vm.VMM.PID))
	}
	if vm.StartedBy != "" {
		table.Row("last start", "operation "+vm.StartedBy+", "+total(vm.Starts).Round(time.Millisecond).String())
	}
	for _, step := range vm.Starts {
		table.Row("last start: "+strings.TrimPrefix(step.Name, "start."), step.Took.Round(time.Millisecond).String())
	}
	table.Row("directory", vm.Dir)
	return table
}

func total(steps []api.Step) time.Duration {
	var sum time.Duration
	for _, step := range steps {
		sum += step.Took
	}
	return sum
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.RFC3339)
}
