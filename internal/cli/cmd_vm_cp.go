package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type vmCpOptions struct {
	from, to place
	json     bool
}

// place is one end of a copy: a path of a VM, of this host, or a stream.
type place struct {
	vm   string // "" is this host
	path string // "-" on this host is standard input or output
}

func newVMCpCommand(d *deps) *cobra.Command {
	var o vmCpOptions
	c := &cobra.Command{
		Use:   "cp <from> <to>",
		Short: "Copy files and directories into a running VM, or out of it",
		Long: `Copy a file or a directory into a running VM, or out of it. A path of the VM is
written <vm>:<path>; one that is not absolute is below /root. Like cp, it copies into a
directory that is there, and else to the very path. - is standard input or output.

Permissions, times, links and the holes of sparse files are kept; owners and set-id bits
are not. A copy of a large file that was cut off goes on where it was when it is done
again. What a VM sends is never written outside of <to>.`,
		Example: `  banger vm cp ./data sandbox:/srv/
  banger vm cp sandbox:/var/log/syslog .
  banger vm cp sandbox:build/app - | file -`,
		Args: func(c *cobra.Command, args []string) error { return o.parse(c, args) },
		RunE: func(c *cobra.Command, _ []string) error { return runVMCp(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func (o *vmCpOptions) parse(c *cobra.Command, args []string) error {
	if len(args) != 2 {
		return usage(c, "vm cp takes two paths, of which one is in a VM")
	}
	o.from, o.to = parsePlace(args[0]), parsePlace(args[1])
	switch {
	case o.from.vm == "" && o.to.vm == "":
		return usage(c, "one of the two paths must be in a VM, like sandbox:/root/file")
	case o.from.vm != "" && o.to.vm != "":
		return bad("copy it to this host first: `banger vm cp a:/x - | banger vm cp - b:/x`; a file here with a colon in its name is written ./a:x", "vm cp does not copy from a VM to a VM")
	case o.from.path == "" || o.to.path == "" && o.to.vm == "":
		return usage(c, "a path is missing")
	}
	return nil
}

// parsePlace takes what has a VM's name or id and a colon at its beginning for a
// path in that VM; ./a:b is a file here.
func parsePlace(arg string) place {
	vm, path, found := strings.Cut(arg, ":")
	if !found || !label().MatchString(vm) {
		return place{path: arg}
	}
	return place{vm: vm, path: path}
}

func runVMCp(ctx context.Context, o vmCpOptions, d *deps) error {
	progress := d.progress(o.json)
	defer progress.Done()
	moved, err := o.copy(ctx, d, progress.Step)
	progress.Done()
	if err != nil {
		return err
	}
	d.sayLeftOut(moved)
	if o.json {
		if err := ui.JSON(d.out, moved); err != nil {
			return err
		}
	}
	if len(moved.Skipped) > 0 {
		return exitStatus(exitUnfit)
	}
	return nil
}

// sayLeftOut tells of what a copy did not take.
func (d *deps) sayLeftOut(moved api.Copied) {
	for _, skipped := range moved.Skipped {
		fmt.Fprintf(d.errs, "banger: %s was left out: %s\n", ui.Clean(skipped.Path), ui.Clean(skipped.Why))
	}
	if moved.MoreSkipped > 0 {
		fmt.Fprintf(d.errs, "banger: %d more were left out\n", moved.MoreSkipped)
	}
}

// copyMode is the mode of a file that comes from standard input.
const copyMode = 0o644

func (o vmCpOptions) copy(ctx context.Context, d *deps, report client.Report) (api.Copied, error) {
	switch {
	case o.from.vm == "" && o.from.path == "-":
		return d.client.WriteFile(ctx, o.to.vm, o.to.guestPath(), copyMode, d.in, report)
	case o.from.vm == "":
		return d.client.CopyIn(ctx, o.to.vm, o.from.path, o.to.guestPath(), report)
	case o.to.path == "-":
		return d.client.ReadFile(ctx, o.from.vm, o.from.path, d.out, report)
	default:
		return d.client.CopyOut(ctx, o.from.vm, o.from.path, o.to.path, report)
	}
}

// guestPath is root's home where none was named.
func (p place) guestPath() string {
	if p.path == "" {
		return "."
	}
	return p.path
}
