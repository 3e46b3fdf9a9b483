package cli

import (
	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

type configShowOptions struct {
	set  []string
	json bool
}

func newConfigShowCommand(d *deps) *cobra.Command {
	var o configShowOptions
	c := &cobra.Command{
		Use:   "show",
		Short: "Show every setting and where its value comes from",
		Long: `Show every setting and where its value comes from: the default, a line of the config
file, an environment variable (BANGER_ and the setting's name in capitals) or a flag.
A running bangerd has read them when it started; ` + "`banger daemon restart`" + ` makes it read
them again.`,
		Args: none,
		RunE: func(*cobra.Command, []string) error { return runConfigShow(o, d) },
	}
	c.Flags().StringArrayVar(&o.set, "set", nil, "as if `setting=value` were given to bangerd")
	addJSON(c, &o.json)
	return c
}

func runConfigShow(o configShowOptions, d *deps) error {
	flags, err := config.ParseSettings(o.set)
	if err != nil {
		return err
	}
	settings, err := config.Load(config.Options{Flags: flags})
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, settings.Values())
	}
	table := ui.NewTable("SETTING", "VALUE", "FROM")
	for _, v := range settings.Values() {
		table.Row(v.Key, ui.Or(v.Value), v.Origin)
	}
	return table.Write(d.out)
}
