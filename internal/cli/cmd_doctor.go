package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type doctorOptions struct{ json, fix bool }

func newDoctorCommand(d *deps) *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this host can run VMs, and how to mend it",
		Long: `Look whether this host can run VMs: which VMM will be used and why, the programs
that are needed, network rights, firewalls, memory, disk space, leftovers and more.
With --fix it does what it can do without harm, and says what it did: it removes
what no VM owns, and switches IP forwarding on again where it was on. Exit status
1 when ` + "`banger vm run`" + ` would not work, or a repair failed.`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error {
			if o.fix {
				return fixDoctor(c.Context(), o, d)
			}
			return runDoctor(c.Context(), o, d)
		},
	}
	c.Flags().BoolVar(&o.fix, "fix", false, "mend what can be mended without harm")
	addJSON(c, &o.json)
	return c
}

func runDoctor(ctx context.Context, o doctorOptions, d *deps) error {
	found, err := d.client.Doctor(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		found = noDaemon(err)
	}
	if err := d.printDoctor(found, o.json); err != nil {
		return err
	}
	if !found.OK {
		return exitStatus(exitUnfit)
	}
	return nil
}

// fixDoctor says first what was done.
func fixDoctor(ctx context.Context, o doctorOptions, d *deps) error {
	fixed, err := d.client.DoctorFix(ctx)
	if err != nil {
		return err
	}
	if o.json {
		err = ui.JSON(d.out, fixed)
	} else {
		err = d.printFixed(fixed)
	}
	if err != nil {
		return err
	}
	if !fixed.Doctor.OK || len(fixed.Failed) > 0 {
		return exitStatus(exitUnfit)
	}
	return nil
}

func (d *deps) printFixed(fixed api.DoctorFix) error {
	table := ui.NewTable()
	for _, done := range fixed.Done {
		table.Row("fixed", done)
	}
	for _, failed := range fixed.Failed {
		table.Row("FAILED", failed)
	}
	if len(fixed.Done)+len(fixed.Failed) == 0 {
		table.Row("nothing to fix that banger can fix by itself")
	}
	table.Row("")
	if err := table.Write(d.out); err != nil {
		return err
	}
	return d.printDoctor(fixed.Doctor, false)
}

// noDaemon makes a finding of a daemon that can't be asked.
func noDaemon(err error) api.Doctor {
	told := asAPI(err)
	return api.Doctor{Findings: []api.Finding{{Check: "bangerd", Level: api.LevelError, Detail: told.Message, Hint: told.Hint}}}
}

func (d *deps) printDoctor(found api.Doctor, asJSON bool) error {
	if asJSON {
		return ui.JSON(d.out, found)
	}
	table := ui.NewTable()
	for _, f := range found.Findings {
		table.Row(mark(f.Level), f.Check, f.Detail)
		if f.Hint != "" {
			table.Row("", "", "→ "+f.Hint)
		}
	}
	if found.OK {
		table.Row("", "", "")
		table.Row("ok", "verdict", "`banger vm run` works here")
	} else {
		table.Row("", "", "")
		table.Row("ERROR", "verdict", "`banger vm run` would not work: mend what is marked ERROR")
	}
	return table.Write(d.out)
}

func mark(l api.Level) string {
	switch l {
	case api.LevelError:
		return "ERROR"
	case api.LevelWarning:
		return "warning"
	}
	return string(l)
}
