package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

type daemonStatusOptions struct{ json bool }

func newDaemonStatusCommand(d *deps) *cobra.Command {
	var o daemonStatusOptions
	c := &cobra.Command{
		Use:   "status",
		Short: "Show whether bangerd runs",
		Long:  "Show whether bangerd runs, without starting it. Exit status 1 when it does not.",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runDaemonStatus(c.Context(), o, d) },
	}
	addJSON(c, &o.json)
	return c
}

// daemonState is the status with the answer that a daemon can't give.
type daemonState struct {
	Running bool `json:"running"`
	*api.DaemonStatus
}

func runDaemonStatus(ctx context.Context, o daemonStatusOptions, d *deps) error {
	quiet := d.client.NeverStart().AnyVersion()
	defer quiet.Close()
	s, err := quiet.Status(ctx)
	if errors.Is(err, client.ErrNotRunning) {
		return d.printNotRunning(o.json)
	}
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, daemonState{true, &s})
	}
	table := ui.NewTable()
	table.Row("bangerd", "running, version "+s.Version)
	table.Row("process", strconv.Itoa(s.PID))
	table.Row("since", moment(s.Started)+" ("+ui.Age(time.Now(), s.Started)+")")
	table.Row("vms", fmt.Sprintf("%d, %d running", s.VMs, s.Running))
	table.Row("socket", d.client.Socket())
	table.Row("log", d.paths.Log())
	if s.Version != api.Version {
		table.Row("note", "this banger is version "+api.Version+": run `banger daemon restart`; running VMs are not touched")
	}
	return table.Write(d.out)
}

func (d *deps) printNotRunning(asJSON bool) error {
	if asJSON {
		if err := ui.JSON(d.out, daemonState{}); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintln(d.out, "bangerd is not running; every command that needs it starts it"); err != nil {
		return err
	}
	return exitStatus(exitUnfit)
}

func newDaemonStopCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:   "stop",
		Short: "End bangerd; running VMs are not touched",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runDaemonStop(c.Context(), d) },
	}
}

// shutdownTime is how long the daemon may take to end.
const shutdownTime = 60 * time.Second

func runDaemonStop(ctx context.Context, d *deps) error {
	ctx, cancel := context.WithTimeout(ctx, shutdownTime)
	defer cancel()
	return d.client.Shutdown(ctx)
}

type daemonRestartOptions struct{ set []string }

func newDaemonRestartCommand(d *deps) *cobra.Command {
	var o daemonRestartOptions
	c := &cobra.Command{
		Use:   "restart",
		Short: "End bangerd and start it again; running VMs are not touched",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runDaemonRestart(c.Context(), o, d) },
	}
	c.Flags().StringArrayVar(&o.set, "set", nil, "start it with `setting=value`, stronger than file and environment")
	return c
}

// runDaemonRestart looks at the settings first: a mistake in them must not
// cost the daemon that runs.
func runDaemonRestart(ctx context.Context, o daemonRestartOptions, d *deps) error {
	flags, err := config.ParseSettings(o.set)
	if err != nil {
		return err
	}
	if _, err := config.Load(config.Options{Flags: flags}); err != nil {
		return err
	}
	if err := runDaemonStop(ctx, d); err != nil {
		return err
	}
	var args []string
	for _, s := range o.set {
		args = append(args, "--set", s)
	}
	starter := d.clientWith(args)
	defer starter.Close()
	return starter.Start(ctx)
}
