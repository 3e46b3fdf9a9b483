package cli

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sshOptions are the options of ssh that vm ssh hands on as they are.
type sshOptions struct {
	flags *pflag.FlagSet // those that were given, in their order
}

// The letters of ssh's options: those with a value, and those without.
var (
	sshValues = []struct{ letter, name, about string }{
		{"o", "option", "ssh: an `option` of ssh_config, like ServerAliveInterval=30"},
		{"L", "local-forward", "ssh: lead a port here into the guest, `port:host:port`"},
		{"R", "remote-forward", "ssh: lead a port of the guest here, `port:host:port`"},
		{"D", "dynamic-forward", "ssh: a SOCKS proxy at this `port` here"},
		{"W", "stdio-forward", "ssh: standard input and output to `host:port` in the guest"},
		{"i", "identity", "ssh: another private `key`"},
		{"l", "login", "ssh: another `user`"},
		{"e", "escape-char", "ssh: the escape `character`"},
	}
	sshSwitches = []struct{ letter, name, about string }{
		{"A", "forward-agent", "ssh: let the guest use all keys of your ssh-agent; --forward-key is for one"},
		{"C", "compress", "ssh: compress"},
		{"N", "no-command", "ssh: run nothing, only forward"},
		{"n", "stdin-null", "ssh: no standard input"},
		{"q", "quiet", "ssh: quiet"},
		{"v", "verbose", "ssh: tell what it does"},
		{"X", "forward-x11", "ssh: forward X11"},
		{"Y", "trusted-x11", "ssh: forward X11, trusted"},
	}
)

func (o *sshOptions) add(c *cobra.Command) {
	o.flags = c.Flags()
	for _, f := range sshValues {
		c.Flags().StringArrayP(f.name, f.letter, nil, f.about)
	}
	for _, f := range sshSwitches {
		c.Flags().BoolP(f.name, f.letter, false, f.about)
	}
}

// args are the options as ssh takes them.
func (o *sshOptions) args() []string {
	var args []string
	for _, f := range sshValues {
		values, err := o.flags.GetStringArray(f.name)
		if err != nil {
			panic(err) // add has added it
		}
		for _, value := range values {
			args = append(args, "-"+f.letter, value)
		}
	}
	for _, f := range sshSwitches {
		if on, err := o.flags.GetBool(f.name); err == nil && on {
			args = append(args, "-"+f.letter)
		}
	}
	return args
}
