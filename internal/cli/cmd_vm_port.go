package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

func newVMPortCommand(d *deps) *cobra.Command {
	return group("port", "Ports of this host that lead into VMs",
		newVMPortAddCommand(d), newVMPortRmCommand(d), newVMPortListCommand(d))
}

// addPorts adds the flag of a new VM's ports.
func addPorts(c *cobra.Command, ports *[]string) {
	c.Flags().StringArrayVarP(ports, "port", "p", nil, "lead this host's loopback port to the guest's, like `8080:80`; 80 alone takes any that is free")
}

// parsePorts reads texts like 8080:80 and 80.
func parsePorts(texts []string) ([]api.Port, error) {
	var ports []api.Port
	for _, text := range texts {
		p, err := parsePort(text)
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func parsePort(text string) (api.Port, error) {
	host, guest, both := strings.Cut(text, ":")
	if !both {
		host, guest = "0", text
	}
	p := api.Port{}
	var err error
	if p.Host, err = portNumber(host, 0); err == nil {
		p.Guest, err = portNumber(guest, 1)
	}
	if err != nil {
		return api.Port{}, bad("write <port of this host>:<port of the guest>, like 8080:80", "%q leads to no port: %v", text, err)
	}
	return p, nil
}

func portNumber(text string, least int) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < least || n > 65535 {
		return 0, fmt.Errorf("%q is not a number from %d to 65535", text, least)
	}
	return n, nil
}

type vmPortAddOptions struct{ json bool }

func newVMPortAddCommand(d *deps) *cobra.Command {
	var o vmPortAddOptions
	c := &cobra.Command{
		Use:   "add <vm> [port:]guest-port…",
		Short: "Lead a port of this host into a VM",
		Long: `Lead a port of this host's loopback, IPv4 and IPv6, to a port of a VM, and print it. It
goes over banger's own link, so the guest needs no network. The port is kept with the VM:
it is there at each start, and after a restart of bangerd.`,
		Example: `  banger vm port add sandbox 8080:80
  banger vm port add sandbox 5432`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(c, "vm port add takes a VM and ports")
			}
			return nil
		},
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMPortAdd(c.Context(), o, d, args[0], args[1:]) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMPortAdd(ctx context.Context, o vmPortAddOptions, d *deps, vm string, texts []string) error {
	ports, err := parsePorts(texts)
	if err != nil {
		return err
	}
	added := []api.Port{}
	for _, p := range ports {
		got, err := d.client.AddPort(ctx, vm, p)
		if err != nil {
			return err
		}
		added = append(added, got)
		if !o.json {
			fmt.Fprintln(d.out, lead(got))
		}
	}
	if o.json {
		return ui.JSON(d.out, added)
	}
	return nil
}

// lead writes where a port of the host leads.
func lead(p api.Port) string {
	if p.Host == 0 {
		return fmt.Sprintf("a free port:%d", p.Guest)
	}
	return fmt.Sprintf("%d:%d", p.Host, p.Guest)
}

func newVMPortRmCommand(d *deps) *cobra.Command {
	return &cobra.Command{
		Use:   "rm <vm> <port of this host>…",
		Short: "Take ports of this host away from a VM",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) < 2 {
				return usage(c, "vm port rm takes a VM and ports of this host")
			}
			return nil
		},
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMPortRm(c.Context(), d, args[0], args[1:]) },
	}
}

func runVMPortRm(ctx context.Context, d *deps, vm string, texts []string) error {
	return d.eachTold("taken away", texts, func(text string) error {
		host, _, _ := strings.Cut(text, ":")
		number, err := portNumber(host, 1)
		if err != nil {
			return bad("banger vm port list shows the ports", "%v", err)
		}
		return d.client.RemovePort(ctx, vm, number)
	})
}

type vmPortListOptions struct{ json bool }

func newVMPortListCommand(d *deps) *cobra.Command {
	var o vmPortListOptions
	c := &cobra.Command{
		Use:               "list <vm>",
		Aliases:           []string{"ls"},
		Short:             "List the ports that lead into a VM",
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMPortList(c.Context(), o, d, args[0]) },
	}
	addJSON(c, &o.json)
	return c
}

func runVMPortList(ctx context.Context, o vmPortListOptions, d *deps, vm string) error {
	ports, err := d.client.Ports(ctx, vm)
	if err != nil {
		return err
	}
	if o.json {
		return ui.JSON(d.out, ports)
	}
	table := ui.NewTable("HOST", "GUEST", "NOW")
	for _, p := range ports {
		now := "not listened on: the VM does not run"
		switch {
		case p.Listening:
			now = "listening"
		case p.Error != "":
			now = p.Error
		}
		host := "any"
		if p.Host != 0 {
			host = strconv.Itoa(p.Host)
		}
		table.Row(host, strconv.Itoa(p.Guest), now)
	}
	return table.Write(d.out)
}
