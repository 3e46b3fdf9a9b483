package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type doctorOptions struct{ json bool }

func newDoctorCommand(d *deps) *cobra.Command {
	var o doctorOptions
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this host can run VMs, and how to mend it",
		Long: `Look whether this host can run VMs: which VMM will be used and why, the programs
that are needed, network rights, memory and disk space. Exit status 1 when
` + "`banger vm run`" + ` would not work.`,
		Args: none,
		RunE: func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), o, d) },
	}
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
