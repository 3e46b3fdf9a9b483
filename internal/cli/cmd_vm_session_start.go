package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

// newVMSessionCommand is every command on sessions.
func newVMSessionCommand(d *deps) *cobra.Command {
	c := group("session", "Long-lived commands that a guest keeps",
		newVMSessionStartCommand(d), newVMSessionAttachCommand(d), newVMSessionLogsCommand(d), newVMSessionSendCommand(d),
		newVMSessionListCommand(d), newVMSessionWaitCommand(d), newVMSessionStopCommand(d), newVMSessionKillCommand(d),
		newVMSessionDeleteCommand(d))
	c.Long = `A session is a command that the guest keeps running, whoever is attached to it: it
survives its clients, this program, bangerd and lost connections. What it prints is
kept on the guest's disk, up to a bound; its exit status and times stay after its end.

  banger vm session start sandbox --name planner --cwd /root/repo -- pi --mode rpc
  banger vm session attach sandbox planner`
	return c
}

type vmSessionStartOptions struct {
	vm, name string
	argv     []string
	cwd      string
	env      []string
	stdin    string
	logLimit string
	wait     string
	json     bool
}

func newVMSessionStartCommand(d *deps) *cobra.Command {
	var o vmSessionStartOptions
	c := &cobra.Command{
		Use:     "start <vm> --name <session> [flags] -- command args…",
		Short:   "Start a command that lives on by itself",
		Example: "  banger vm session start sandbox --name planner --cwd /root/repo --stdin-mode pipe -- pi --mode rpc",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 || c.ArgsLenAtDash() > 1 {
				return usage(c, "vm session start takes a VM, then -- and a command")
			}
			o.vm, o.argv = args[0], args[1:]
			return nil
		},
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMSessionStart(c.Context(), o, d) },
	}
	c.Flags().StringVar(&o.name, "name", "", "the session's `name`")
	c.Flags().StringVar(&o.cwd, "cwd", "", "run the command in this `directory` of the guest")
	c.Flags().StringArrayVarP(&o.env, "env", "e", nil, "set `NAME=VALUE` for the command; NAME alone takes the value it has here")
	c.Flags().StringVar(&o.stdin, "stdin-mode", string(api.StdinPipe), "the `mode` of its standard input: pipe, pty (a terminal) or null")
	c.Flags().StringVar(&o.logLimit, "log-limit", "", "keep at most this `size` of output on the guest's disk (default 64M)")
	addWait(c, &o.wait)
	addJSON(c, &o.json)
	completeFlag(c, "stdin-mode", cobra.FixedCompletions([]cobra.Completion{string(api.StdinPipe), string(api.StdinPTY), string(api.StdinNull)}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func runVMSessionStart(ctx context.Context, o vmSessionStartOptions, d *deps) error {
	req, err := o.request(d)
	if err != nil {
		return err
	}
	s, err := d.client.StartSession(ctx, o.vm, req)
	if err != nil {
		return hintHostProgram(err, o.argv)
	}
	if o.json {
		return ui.JSON(d.out, s)
	}
	_, err = fmt.Fprintln(d.out, ui.Clean(s.Name))
	return err
}

func (o vmSessionStartOptions) request(d *deps) (api.StartSession, error) {
	req := api.StartSession{Name: o.name, Argv: o.argv, Cwd: o.cwd, Stdin: api.StdinMode(o.stdin)}
	if o.name == "" {
		return req, bad("give one by --name, like --name planner", "a session needs a name")
	}
	if err := checkCommand(o.argv); err != nil {
		return req, err
	}
	switch req.Stdin {
	case api.StdinPipe, api.StdinPTY, api.StdinNull:
	default:
		return req, bad("pipe, pty or null", "--stdin-mode can't be %q", o.stdin)
	}
	var err error
	if req.Wait, err = parseWait(o.wait); err != nil {
		return req, err
	}
	if req.Env, err = environment(o.env); err != nil {
		return req, err
	}
	if o.logLimit != "" {
		mib, err := config.ParseMiB(o.logLimit)
		if err != nil || mib < 1 {
			return req, bad("write it like 16M or 1G", "--log-limit can't be %q", o.logLimit)
		}
		req.LogLimit = mib << 20
	}
	if req.Stdin == api.StdinPTY {
		req.Rows, req.Cols = size(d.out)
		if name := os.Getenv("TERM"); name != "" && req.Env["TERM"] == "" && isTerminal(d.out) {
			req.Env["TERM"] = name
		}
	}
	return req, nil
}
