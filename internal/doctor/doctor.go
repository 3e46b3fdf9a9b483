// Package doctor looks at the host and says whether `vm run` would work on it,
// and how to mend what is in the way. What can be mended without harm it mends
// itself, when asked to.
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
	Companions string               // directory of fcqemu, banger-init and the agent
	UIDBase    int                  // the first of the user ids that VMMs run under
	Network    func() []api.Finding // what the network says of itself
	// MendNetwork mends what Network finds, as far as that does no harm, and
	// says what it did.
	MendNetwork func(context.Context) (done []string, err error)
	// EndIn ends every program whose working directory this is.
	EndIn func(ctx context.Context, dir string) error
	Host  Host // what is asked of the host; the zero value asks the real one
}

// check gives any number of findings.
type check func(context.Context, Options) []api.Finding

// checks is the order of the report.
var checks = []check{
	user,
	virtualization,
	programs,
	companions,
	network,
	memory,
	space,
	writable,
	leftovers,
	clock,
	subordinates,
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

// Fix mends what can be mended without harm, says what it did and what failed,
// and looks again.
func Fix(ctx context.Context, o Options) api.DoctorFix {
	var fixed api.DoctorFix
	for _, mend := range []func(context.Context) ([]string, error){o.removeLeftovers, o.MendNetwork} {
		done, err := mend(ctx)
		fixed.Done = append(fixed.Done, done...)
		if err != nil {
			fixed.Failed = append(fixed.Failed, err.Error())
		}
	}
	fixed.Doctor = Run(ctx, o)
	return fixed
}

func one(name string, level api.Level, detail, hint string) []api.Finding {
	return []api.Finding{{Check: name, Level: level, Detail: detail, Hint: hint}}
}

func network(_ context.Context, o Options) []api.Finding { return o.Network() }

func user(_ context.Context, o Options) []api.Finding {
	if o.Host.UID != 0 {
		return one("user", api.LevelError, "bangerd does not run as root", "run banger with sudo: it makes network devices and gives each VM a user of its own")
	}
	return one("user", api.LevelOK, "bangerd runs as root", "")
}

func virtualization(ctx context.Context, o Options) []api.Finding {
	choice, err := o.choose()
	if err != nil {
		return one("virtualization", api.LevelError, err.Error(), "set vmm = \"auto\" in the config, name a firecracker there by firecracker_bin, or run `make install` again for fcqemu")
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
