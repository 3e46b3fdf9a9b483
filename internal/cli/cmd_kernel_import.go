package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
)

type kernelImportOptions struct {
	name    string
	vmlinux string
	modules string
	initrd  string
	json    bool
}

func newKernelImportCommand(d *deps) *cobra.Command {
	var o kernelImportOptions
	c := &cobra.Command{
		Use:   "import --name <name> --vmlinux <file>",
		Short: "Take a kernel of your own into the store",
		Long: `Take a kernel that is on the host into the store: an ELF file or a bzImage, with its
modules. It is checked whether it can start a VM, and what it lacks is said. An initrd is
only looked into for modules: VMs always start with banger's own.`,
		Example: "  banger kernel import --name mine --vmlinux arch/x86/boot/bzImage --modules /lib/modules/6.12.0-mine",
		Args:    none,
		RunE:    func(c *cobra.Command, _ []string) error { return runKernelImport(c.Context(), o, d) },
	}
	c.Flags().StringVar(&o.name, "name", "", "the kernel's `name`")
	c.Flags().StringVar(&o.vmlinux, "vmlinux", "", "the kernel, a `file`")
	c.Flags().StringVar(&o.modules, "modules", "", "the `directory` of its modules, like /lib/modules/<release>")
	c.Flags().StringVar(&o.initrd, "initrd", "", "an initrd, a `file` with modules in it")
	addJSON(c, &o.json)
	return c
}

func runKernelImport(ctx context.Context, o kernelImportOptions, d *deps) error {
	if o.name == "" || o.vmlinux == "" {
		return bad("write `banger kernel import --name mine --vmlinux vmlinux`", "a kernel needs --name and --vmlinux")
	}
	req, err := importOf(o.name, o.vmlinux, o.modules, o.initrd)
	if err != nil {
		return err
	}
	progress := d.progress(o.json)
	k, err := d.client.ImportKernel(ctx, req, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	return d.printKernel(k, o.json)
}

// importOf makes the paths whole, which the daemon would take for its own.
func importOf(name, vmlinux, modules, initrd string) (api.ImportKernel, error) {
	paths := []*string{&vmlinux, &modules, &initrd}
	for _, path := range paths {
		if *path == "" {
			continue
		}
		abs, err := filepath.Abs(*path)
		if err != nil {
			return api.ImportKernel{}, fmt.Errorf("cannot find %s: %w", *path, err)
		}
		*path = abs
	}
	return api.ImportKernel{Name: name, Vmlinux: vmlinux, Modules: modules, Initrd: initrd}, nil
}
