package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

// machineOptions are the flags that say what a new VM is like.
type machineOptions struct {
	name   machineName
	image  string
	kernel string
	vcpus  processors
	memory string
	disk   string

	ports         []string
	noCredentials bool
	noOpenSSH     bool
}

func (o *machineOptions) add(c *cobra.Command, d *deps) {
	c.Flags().Var(&o.name, "name", "the VM's `name`, a DNS label; made up without it")
	c.Flags().StringVar(&o.image, "image", "", "`image` to start from (default: default_image_name of the config)")
	c.Flags().StringVar(&o.kernel, "kernel", "", "`kernel` to start with (default: the image's)")
	c.Flags().Var(&o.vcpus, "vcpus", "`number` of processors (default: default_vcpus of the config)")
	c.Flags().StringVar(&o.memory, "memory", "", "memory, as a `size` like 512M or 2G (default: default_memory of the config)")
	c.Flags().StringVar(&o.disk, "disk", "", "disk, as a `size` like 20G (default: default_disk of the config)")
	addPorts(c, &o.ports)
	c.Flags().BoolVar(&o.noCredentials, "no-credentials", false, "keep your credentials (credential_sync of the config) out of the guest")
	c.Flags().BoolVar(&o.noOpenSSH, "no-openssh", false, "do not install openssh-server where the image has none; banger serves ssh itself")
	completeFlag(c, "image", d.completeImages)
	completeFlag(c, "kernel", d.completeKernels)
}

// machineName is what a VM is to be called; "" lets the daemon make a name up,
// but nobody asks for that with an empty name: rather a variable was not set.
type machineName string

// String implements [pflag.Value].
func (n machineName) String() string { return string(n) }

// Type implements [pflag.Value].
func (n machineName) Type() string { return "string" }

// Set implements [pflag.Value].
func (n *machineName) Set(text string) error {
	if text == "" {
		return errors.New("a name may not be empty")
	}
	*n = machineName(text)
	return nil
}

// processors is how many of them a VM has; 0 is as many as the config says.
type processors int

// String implements [pflag.Value].
func (p processors) String() string { return strconv.Itoa(int(p)) }

// Type implements [pflag.Value].
func (p processors) Type() string { return "int" }

// Set implements [pflag.Value].
func (p *processors) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 32 {
		return errors.New("a VM has 1 to 32 processors")
	}
	*p = processors(n)
	return nil
}

func (o machineOptions) request() (api.CreateRequest, error) {
	if err := checkName(string(o.name)); err != nil {
		return api.CreateRequest{}, err
	}
	memory, err := parseSize("memory", o.memory, config.MinMemoryMiB)
	if err != nil {
		return api.CreateRequest{}, err
	}
	disk, err := parseSize("disk", o.disk, config.MinDiskMiB)
	if err != nil {
		return api.CreateRequest{}, err
	}
	ports, err := parsePorts(o.ports)
	if err != nil {
		return api.CreateRequest{}, err
	}
	return api.CreateRequest{Name: string(o.name), Image: o.image, Kernel: o.kernel, VCPUs: int(o.vcpus), MemoryMiB: memory, DiskMiB: disk,
		Ports: ports, NoCredentials: o.noCredentials, NoOpenSSH: o.noOpenSSH}, nil
}

// create makes a VM and shows how it comes along.
func (d *deps) create(ctx context.Context, req api.CreateRequest, asJSON bool) (*client.Created, error) {
	progress := d.progress(asJSON)
	defer progress.Done()
	created, err := d.client.Create(ctx, req, progress.Step)
	return created, hintWedged(err, req.Name)
}

// hintWedged says how to look at a guest that did not get ready: it was kept
// for that.
func hintWedged(err error, name string) error {
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindGuestTimeout || strings.Contains(told.Message+told.Hint, "vm logs") {
		return err
	}
	if name == "" {
		name = "<name>"
	}
	hint := fmt.Sprintf("it was kept: `banger vm logs %s` shows what the guest said, `banger vm delete %s` deletes it", name, name)
	return &api.Error{Kind: told.Kind, Message: told.Message, Hint: strings.TrimPrefix(told.Hint+"; "+hint, "; ")}
}

type vmCreateOptions struct {
	machineOptions
	wait    string
	noStart bool
	json    bool
}

func newVMCreateCommand(d *deps) *cobra.Command {
	var o vmCreateOptions
	c := &cobra.Command{
		Use:   "create",
		Short: "Make a VM and start it",
		Long:  "Make a VM, start it, and print its name. `banger vm exec` and `banger vm ssh` work in it.",
		Args:  none,
		RunE: func(c *cobra.Command, _ []string) error {
			return runVMCreate(c.Context(), o, d)
		},
	}
	o.machineOptions.add(c, d)
	addWait(c, &o.wait)
	c.Flags().BoolVar(&o.noStart, "no-start", false, "only make it")
	addJSON(c, &o.json)
	return c
}

func runVMCreate(ctx context.Context, o vmCreateOptions, d *deps) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	if req.Wait, err = parseWait(o.wait); err != nil {
		return err
	}
	req.NoStart = o.noStart
	created, err := d.create(ctx, req, o.json)
	if err != nil {
		return err
	}
	return d.printVM(created.VM, o.json)
}

// printVM ends a command that changed a VM: with its name, or all of it.
func (d *deps) printVM(vm api.VM, asJSON bool) error {
	if asJSON {
		return ui.JSON(d.out, vm)
	}
	_, err := fmt.Fprintln(d.out, ui.Clean(vm.Name))
	return err
}
