package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
)

// commandOptions are the flags of a command that runs in a guest.
type commandOptions struct {
	terminal   bool
	noTerminal bool
	env        []string
	cwd        string
	wait       string
}

func (o *commandOptions) add(c *cobra.Command) {
	c.Flags().BoolVarP(&o.terminal, "tty", "t", false, "give the command a terminal; Enter, then ~. leaves it whatever the guest does, as in ssh")
	c.Flags().BoolVarP(&o.noTerminal, "no-tty", "T", false, "give the command no terminal")
	c.Flags().StringArrayVarP(&o.env, "env", "e", nil, "set `NAME=VALUE` for the command; NAME alone takes the value it has here")
	c.Flags().StringVar(&o.cwd, "cwd", "", "run the command in this `directory` of the guest")
	addWait(c, &o.wait)
	notBoth(c, "tty", "no-tty")
}

// addWait adds the flag that says how long a start takes.
func addWait(c *cobra.Command, wait *string) {
	c.Flags().StringVar(wait, "wait", "", "the `stage` that the guest must have come to: agent or system; without it, until sockets are there")
	completeFlag(c, "wait", cobra.FixedCompletions([]cobra.Completion{string(api.WaitAgent), string(api.WaitSystem)}, cobra.ShellCompDirectiveNoFileComp))
}

// request is what the daemon is asked for.
func (o commandOptions) request(d *deps, argv []string) (api.ExecRequest, error) {
	if err := checkCommand(argv); err != nil {
		return api.ExecRequest{}, err
	}
	wait, err := parseWait(o.wait)
	if err != nil {
		return api.ExecRequest{}, err
	}
	req := api.ExecRequest{Argv: argv, Env: map[string]string{}, Cwd: o.cwd, Wait: wait}
	req.TTY = o.terminal || !o.noTerminal && isTerminal(d.in) && isTerminal(d.out)
	if req.TTY {
		req.Rows, req.Cols = size(d.out)
		if name := os.Getenv("TERM"); name != "" {
			req.Env["TERM"] = name
		}
	}
	asked, err := environment(o.env)
	if err != nil {
		return api.ExecRequest{}, err
	}
	maps.Copy(req.Env, asked)
	return req, nil
}

// checkCommand refuses a program without a name; that there is no command at all
// is up to the caller.
func checkCommand(argv []string) error {
	if len(argv) > 0 && argv[0] == "" {
		return bad("its first word names the program to run", "the command is empty")
	}
	return nil
}

// environment reads the --env flags.
func environment(flags []string) (map[string]string, error) {
	env := map[string]string{}
	for _, e := range flags {
		name, value, set := strings.Cut(e, "=")
		if name == "" {
			return nil, bad("write --env NAME=VALUE", "%q sets no variable", e)
		}
		if !set {
			value, set = os.LookupEnv(name)
		}
		if set { // what is not set here is not set there
			env[name] = value
		}
	}
	return env, nil
}

func parseWait(s string) (api.Wait, error) {
	switch w := api.Wait(s); w {
	case api.WaitDefault, api.WaitAgent, api.WaitSystem:
		return w, nil
	}
	return "", bad("agent: as soon as it can; system: when the guest's init is done", "there is nothing to wait for called %q", s)
}

// runCommand runs a command in a VM as if it ran here: its streams, its
// terminal, its signals. The guest command's own status is an exitStatus.
func (d *deps) runCommand(ctx context.Context, vm api.VM, req api.ExecRequest) error {
	command, err := d.client.Exec(ctx, vm.ID, req)
	if err != nil {
		return err
	}
	begun := time.Now()
	ctx, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	defer d.interrupts.divert(forward(command, func() error { return d.paused(vm) }, giveUp))()
	in := io.Reader(d.in)
	if req.TTY {
		keys, restore, err := d.handOver(ctx, command, func() { giveUp(errLeft) })
		if err != nil {
			return err
		}
		defer restore()
		in = keys
	}
	code, err := command.Run(ctx, in, d.out, d.errs)
	var given *api.Error
	switch {
	case errors.As(context.Cause(ctx), &given): // why it was given up
		return given
	case errors.Is(context.Cause(ctx), errLeft):
		return &api.Error{Kind: api.KindCanceled, Message: "disconnected from " + vm.Name + ": the command there is hung up on"}
	case errors.Is(err, client.ErrLost):
		return d.lost(vm, begun)
	case err != nil:
		return hintHostProgram(err, req.Argv)
	case code != 0:
		return exitStatus(code)
	}
	return nil
}

// handOver gives the terminal to a command, with the keys that come of it, until
// restore is called. Without a terminal here it is only the command that has one.
func (d *deps) handOver(ctx context.Context, command *client.Command, leave func()) (in io.Reader, restore func(), err error) {
	restore, err = raw(d.in)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot hand the terminal over: %w", err)
	}
	followSize(ctx, d.out, command.Resize)
	if !isTerminal(d.in) {
		return d.in, restore, nil
	}
	return openKeyboard(d.in, new(tilde).sift, leave), restore, nil
}

// errLeft is why a command was given up whose user typed the keys to leave it.
var errLeft = errors.New("left by its keys")

// forward sends the first signal to the guest's command. The second one, or
// the terminal's end, gives up waiting for it; so does the first one where the VM
// is paused and its command can't take it.
func forward(command *client.Command, paused func() error, giveUp func(why error)) func(syscall.Signal) {
	sent := false
	return func(s syscall.Signal) {
		if sent || s == syscall.SIGHUP {
			giveUp(nil)
			return
		}
		sent = true
		go func() { // a guest that takes nothing any more must not keep the second one
			if command.Signal(s) != nil {
				giveUp(nil)
				return
			}
			if why := paused(); why != nil {
				giveUp(why)
			}
		}()
	}
}

// paused is why to give up a command: its VM is paused. nil where it is not.
func (d *deps) paused(vm api.VM) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	now, err := d.client.NeverStart().VM(ctx, vm.ID)
	if err != nil || now.State != api.StatePaused {
		return nil
	}
	return &api.Error{Kind: api.KindCanceled,
		Message: fmt.Sprintf("%s is paused%s: its command is hung up on as soon as it runs on", vm.Name, because(now.Reason))}
}

// lookTime is how long the search for the reason of a lost command may take.
const lookTime = 5 * time.Second

// lost finds out whether the daemon went or the VM did, from under a command that
// began then.
func (d *deps) lost(vm api.VM, begun time.Time) error {
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	look := fmt.Sprintf("`banger vm show %s` tells its state, `banger vm logs %s` what the guest said", vm.Name, vm.Name)
	now, failed := d.client.NeverStart().VM(ctx, vm.ID)
	var told *api.Error
	switch {
	case failed == nil && now.State != api.StateRunning:
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("%s ended while the command ran: it is %s%s", vm.Name, now.State, because(now.Reason)), Hint: look}
	case failed == nil && now.Started.After(begun):
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("%s ended while the command ran, and was started again", vm.Name), Hint: look}
	case failed == nil:
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("the guest of %s let go of the command", vm.Name), Hint: look}
	case errors.As(failed, &told) && told.Kind == api.KindNotFound && !errors.Is(failed, client.ErrNotRunning):
		return &api.Error{Kind: api.KindGuest, Message: fmt.Sprintf("%s was deleted while the command ran", vm.Name)}
	}
	return &api.Error{Kind: api.KindInternal,
		Message: "bangerd ended while the command ran in " + vm.Name + ", which is still there",
		Hint:    look + "; `banger daemon logs` may tell why bangerd ended"}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + reason + ")"
}

// hintHostProgram explains the commonest reason for a missing program: it is
// here and not there.
func hintHostProgram(err error, argv []string) error {
	var told *api.Error
	if !errors.As(err, &told) || told.Kind != api.KindNoProgram {
		return err
	}
	if len(argv) == 0 {
		return err
	}
	name := strings.TrimPrefix(argv[0], "./")
	if info, statErr := os.Stat(name); name == "" || strings.HasPrefix(name, "/") || statErr != nil || !info.Mode().IsRegular() {
		return err
	}
	return &api.Error{Kind: told.Kind, Message: told.Message,
		Hint: fmt.Sprintf("%s is in this directory of the host, which the guest does not see: `banger vm run . -- ./%s` takes it along", name, name)}
}
