package cli

import (
	"context"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

type versionOptions struct{ json bool }

// versions is what `version --json` prints.
type versions struct {
	Banger  string `json:"banger"`
	Bangerd string `json:"bangerd,omitempty"` // empty when it does not run
	Go      string `json:"go"`
	Arch    string `json:"arch"`
}

func newVersionCommand(d *deps) *cobra.Command {
	var o versionOptions
	c := &cobra.Command{
		Use:   "version",
		Short: "Show the versions of banger and of the bangerd that runs",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runVersion(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

func runVersion(ctx context.Context, o versionOptions, d *deps) error {
	v := versions{Banger: api.Version, Go: runtime.Version(), Arch: runtime.GOOS + "/" + runtime.GOARCH}
	quiet := d.client.NeverStart().AnyVersion()
	defer quiet.Close()
	if s, err := quiet.Status(ctx); err == nil {
		v.Bangerd = s.Version
	}
	if o.json {
		return ui.JSON(d.out, v)
	}
	table := ui.NewTable()
	table.Row("banger", v.Banger+" ("+v.Arch+", "+v.Go+")")
	if v.Bangerd == "" {
		table.Row("bangerd", "not running")
	} else {
		table.Row("bangerd", v.Bangerd)
	}
	if err := table.Write(d.out); err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}
