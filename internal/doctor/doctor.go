// Package doctor looks at the host and says whether `vm run` would work on it,
// and how to mend what is in the way.
package doctor

import (
	"context"
	"slices"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/config"
	"github.com/banger-vm/banger/internal/vmm"
)

// Options are what the checks need to know.
type Options struct {
	Config     *config.Config
	Companions string // directory of fcqemu, banger-init and the agent
	Host       Host   // what is asked of the host; the zero value asks the real one
}

// check gives any number of findings.
type check func(context.Context, Options) []api.Finding

// checks is the order of the report.
var checks = []check{
	user,
	virtualization,
	programs,
	companions,
	taps,
	nftables,
	bridge,
	forwarding,
	overlaps,
	memory,
	space,
}

// Run does every check. It changes nothing on the host that outlasts it.
func Run(ctx context.Context, o Options) api.Doctor {
	o.Host = o.Host.real()
	var d api.Doctor
	for _, look := range checks {
		d.Findings = append(d.Findings, look(ctx, o)...)
	}
	d.OK = !slices.ContainsFunc(d.Findings, func(f api.Finding) bool { return f.Level == api.LevelError })
	return d
}

func one(name string, level api.Level, detail, hint string) []api.Finding {
	return []api.Finding{{Check: name, Level: level, Detail: detail, Hint: hint}}
}

func user(_ context.Context, o Options) []api.Finding {
	if o.Host.UID != 0 {
		return one("user", api.LevelError, "bangerd does not run as root", "run banger with sudo: it makes network devices and gives each VM a user of its own")
	}
	return one("user", api.LevelOK, "bangerd runs as root", "")
}

func virtualization(ctx context.Context, o Options) []api.Finding {
	choice, err := o.choose()
	if err != nil {
		return one("virtualization", api.LevelError, err.Error(), "set vmm = \"auto\" in the config, or run `make install` again")
	}
	detail := choice.Name + " (" + choice.Path + "): " + choice.Why
	if choice.Name == vmm.Firecracker {
		detail += "; " + version(ctx, o.Host, choice.Path, "--version")
	}
	if choice.Accelerated {
		return one("virtualization", api.LevelOK, detail, "")
	}
	return one("virtualization", api.LevelInfo, detail+"; VMs run in software, several times slower than with KVM",
		"switch virtualization on in the firmware, or choose a machine that has it; everything works without, only slower")
}

func (o Options) choose() (vmm.Choice, error) {
	return vmm.Choose(vmm.Options{Want: o.Config.VMM, FirecrackerBin: o.Config.FirecrackerBin,
		Companions: o.Companions, Host: o.Host.VMM})
}
