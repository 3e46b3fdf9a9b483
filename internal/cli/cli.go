// Package cli is the banger command: one file for each command, one place where
// errors become exit statuses. It does nothing itself; it calls the daemon, and
// runs the host's ssh for shells.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

// deps is what commands work with.
type deps struct {
	paths      config.Paths
	client     *client.Client
	in         *os.File
	out        io.Writer
	errs       *os.File
	self       string // the banger program
	interrupts *interrupts
}

// Main runs the command line of this process and gives its exit status.
func Main() int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	d, err := realDeps(cancel)
	if err != nil {
		return report(os.Stderr, err, false)
	}
	defer d.client.Close()
	command := newRootCommand(d)
	command.SetArgs(os.Args[1:])
	ran, err := command.ExecuteContextC(ctx)
	return report(os.Stderr, err, wantsJSON(ran))
}

func realDeps(cancel context.CancelFunc) (*deps, error) {
	paths, err := config.FindPaths(os.Getenv, os.Getuid())
	if err != nil {
		return nil, err
	}
	if err := keepConfigFile(); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &deps{paths: paths, in: os.Stdin, out: os.Stdout, errs: os.Stderr, self: self, interrupts: watchInterrupts(cancel)}
	d.client = d.clientWith(nil)
	return d, nil
}

// keepConfigFile makes BANGER_CONFIG mean the same file to a daemon that is
// started from here and lives in another directory.
func keepConfigFile() error {
	path := os.Getenv("BANGER_CONFIG")
	if path == "" || filepath.IsAbs(path) {
		return nil
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return os.Setenv("BANGER_CONFIG", path)
}

// clientWith gives a client that starts the daemon with more arguments.
func (d *deps) clientWith(daemonArgs []string) *client.Client {
	return client.New(client.Options{
		Runtime: d.paths.Runtime,
		Log:     d.paths.Log(),
		Daemon:  append([]string{d.daemonProgram()}, daemonArgs...),
	})
}

// daemonProgram is the bangerd beside this banger, whatever links lead to it,
// else the one in PATH.
func (d *deps) daemonProgram() string {
	self, err := filepath.EvalSymlinks(d.self)
	if err != nil {
		self = d.self
	}
	beside := filepath.Join(filepath.Dir(self), "bangerd")
	if _, err := os.Stat(beside); err != nil {
		return "bangerd"
	}
	return beside
}

// newRootCommand is every command there is.
func newRootCommand(d *deps) *cobra.Command {
	root := &cobra.Command{
		Use:   "banger",
		Args:  known,
		RunE:  help,
		Short: "Real Linux machines for a command, a repository or an agent",
		Long: `banger gives you a real Linux machine of its own for a command: a microVM with
its own kernel, gone when it should be gone.

  banger vm run                          a shell in a new machine
  banger vm run --rm -- uname -a         one command in a machine that goes with it
  banger doctor                          looks whether this host can do it

Exit status: that of the guest's command; 125 when banger itself failed, 126 when
the guest can't run the program, 127 when it has no such program, 128+n when
signal n killed it, 130 when you interrupted.`,
		SilenceErrors: true,
		SilenceUsage:  true,

		SuggestionsMinimumDistance: 2,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(
		group("vm", "Make, run and delete VMs",
			newVMRunCommand(d), newVMCreateCommand(d), newVMStartCommand(d), newVMStopCommand(d), newVMRestartCommand(d),
			newVMDeleteCommand(d), newVMListCommand(d), newVMShowCommand(d), newVMExecCommand(d), newVMSSHCommand(d),
			newVMSSHProxyCommand(d), newVMLogsCommand(d), newVMPruneCommand(d),
			newVMSyncCredentialsCommand(d), newVMCpCommand(d), newVMPortCommand(d),
			newVMSSHConfigCommand(d), newVMSSHKnownHostsCommand(d),
			newVMSessionCommand(d), newVMACPCommand(d),
			group("workspace", "A repository in a VM: in, and its work back",
				newVMWorkspacePrepareCommand(d), newVMWorkspaceDiffCommand(d), newVMWorkspacePullCommand(d))),
		group("image", "Root filesystems that VMs start from",
			newImageListCommand(d), newImageShowCommand(d), newImageCatalogCommand(d), newImagePullCommand(d), newImageBuildCommand(d),
			newImageRegisterCommand(d), newImageExportCommand(d), newImagePublishCommand(d), newImageTagCommand(d), newImageCommitCommand(d), newImagePruneCommand(d), newImageDeleteCommand(d)),
		group("kernel", "Kernels that VMs start with",
			newKernelListCommand(d), newKernelShowCommand(d), newKernelPullCommand(d), newKernelImportCommand(d), newKernelDeleteCommand(d)),
		newDoctorCommand(d),
		group("config", "The settings", newConfigShowCommand(d)),
		group("daemon", "bangerd, which starts by itself",
			newDaemonStatusCommand(d), newDaemonStopCommand(d), newDaemonRestartCommand(d), newDaemonLogsCommand(d)),
		newMCPCommand(d),
		newVersionCommand(d),
	)
	root.InitDefaultCompletionCmd()
	root.InitDefaultHelpCmd()
	return root
}

// wrongFlag is a flag that a command does not have, or not with such a value. One
// that it does not have may be one of the command that is to run in a guest.
func wrongFlag(c *cobra.Command, err error) error {
	var value *pflag.InvalidValueError
	if strings.Contains(c.Use, "-- command") && !errors.As(err, &value) {
		return bad(fmt.Sprintf("flags of the guest's command come after --; `%s --help` tells more", c.CommandPath()), "%v", err)
	}
	return usage(c, err.Error())
}

// group is a command that only holds others.
func group(name, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: name, Short: short, Args: known, RunE: help, SuggestionsMinimumDistance: 2}
	c.AddCommand(commands...)
	return c
}

// known refuses a word that is no command of a group.
func known(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	message := "there is no command \"" + c.CommandPath() + " " + args[0] + "\""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		message += "; did you mean \"" + c.CommandPath() + " " + near[0] + "\"?"
	}
	return usage(c, message)
}

func help(c *cobra.Command, _ []string) error { return c.Help() }

// addJSON adds --json.
func addJSON(c *cobra.Command, json *bool) {
	c.Flags().BoolVar(json, "json", false, "print JSON, for programs")
}

func wantsJSON(c *cobra.Command) bool {
	if c == nil || c.Flags().Lookup("json") == nil {
		return false
	}
	json, err := c.Flags().GetBool("json")
	return err == nil && json
}

// eachTold is each for a deed that says nothing when it goes well: where it fails for
// some, the others are told of.
func (d *deps) eachTold(did string, names []string, f func(name string) error) error {
	var done []string
	err := each(names, func(name string) error {
		err := f(name)
		if err == nil {
			done = append(done, name)
		}
		return err
	})
	if err != nil && len(done) > 0 {
		fmt.Fprintf(d.errs, "banger: %s: %s\n", did, ui.Clean(strings.Join(done, ", ")))
	}
	return err
}

// each does f for every name, all of them, and joins the errors.
func each(names []string, f func(name string) error) error {
	var errs []error
	for _, name := range names {
		if err := f(name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
