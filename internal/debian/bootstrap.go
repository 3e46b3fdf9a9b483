package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/progress"
)

// Spec says what system to build.
type Spec struct {
	// Dir is an empty directory that becomes the root of the system.
	Dir string
	// Packages are installed with all they depend on, beside the essential and
	// the required ones.
	Packages []string
	// Hold is kept open by what runs inside, see [Chroot].
	Hold []*os.File
	// Log gets what dpkg says. Nil: only an error shows its end.
	Log io.Writer
	// AtStep, when not nil, is called with the name of each step as it begins.
	AtStep func(step string)
}

// The steps of a bootstrap, as progress and AtStep name them.
const (
	StepResolve   = "resolving packages"
	StepDownload  = "downloading packages"
	StepUnpack    = "unpacking essential packages"
	StepEssential = "configuring essential packages"
	StepInstall   = "installing packages"
	StepClean     = "cleaning up"
)

// Steps gives the names of all steps of a bootstrap, in their order.
func Steps() []string {
	return []string{StepResolve, StepDownload, StepUnpack, StepEssential, StepInstall, StepClean}
}

// debsInside is where the new system sees the downloaded packages.
const debsInside = "/tmp/debs"

// Bootstrap makes a Debian system in spec.Dir: it resolves, downloads and
// unpacks the essential packages itself, and lets the new system's own dpkg,
// in a [Chroot], do the rest. No daemon is started. What must differ between
// two machines (machine-id, ssh host keys, random seed) is removed.
//
// It must run as root. spec.Dir is left as it is when something fails.
func Bootstrap(ctx context.Context, a *Archive, spec Spec, report progress.Func) error {
	b := &bootstrap{archive: a, spec: spec, report: report}
	steps := []struct {
		name string
		do   func(context.Context) error
	}{
		{StepResolve, b.resolve},
		{StepDownload, b.download},
		{StepUnpack, b.unpack},
		{StepEssential, b.configureEssential},
		{StepInstall, b.install},
		{StepClean, b.clean},
	}
	for _, step := range steps {
		report(progress.Event{Step: step.name})
		if spec.AtStep != nil {
			spec.AtStep(step.name)
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// bootstrap is one run of Bootstrap.
type bootstrap struct {
	archive *Archive
	spec    Spec
	report  progress.Func

	all       []Package
	essential []Package // those that must work before dpkg can run
	debs      map[string]string
}

func (b *bootstrap) resolve(context.Context) error {
	var err error
	if b.all, err = b.archive.Resolve(b.spec.Packages...); err != nil {
		return fmt.Errorf("cannot choose packages: %w", err)
	}
	if b.essential, err = closure(b.all, isEssential); err != nil {
		return fmt.Errorf("cannot choose the essential packages: %w", err)
	}
	return nil
}

func isEssential(p Package) bool { return p.Essential }

func (b *bootstrap) download(ctx context.Context) error {
	paths, err := b.archive.Download(ctx, b.all, b.report)
	if err != nil {
		return fmt.Errorf("cannot download packages: %w", err)
	}
	b.debs = map[string]string{}
	for i, p := range b.all {
		b.debs[p.Name] = paths[i]
	}
	return nil
}

// unpack puts the essential packages' files in place, so that dpkg and what it
// needs can run. dpkg then installs these packages again, properly.
func (b *bootstrap) unpack(ctx context.Context) error {
	if err := layOut(b.spec.Dir); err != nil {
		return fmt.Errorf("cannot lay out the new system: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, p := range b.essential {
		group.Go(func() error { return Unpack(ctx, b.debs[p.Name], b.spec.Dir) })
	}
	return group.Wait()
}

// mergedDirs are links into /usr from the first file on (the merged layout,
// which bookworm requires).
var mergedDirs = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// policyRC makes invoke-rc.d start nothing; 101 is "forbidden by policy".
const policyRC = "#!/bin/sh\nexit 101\n"

// layOut makes what must be there before the first package.
func layOut(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Chmod(".", 0o755); err != nil {
		return err
	}
	for _, name := range mergedDirs {
		if err := root.MkdirAll("usr/"+name, 0o755); err != nil {
			return err
		}
		if err := root.Symlink("usr/"+name, name); err != nil {
			return err
		}
	}
	files := []struct {
		name, content string
		mode          fs.FileMode
	}{
		{"var/lib/dpkg/status", "", 0o644},
		{"var/lib/dpkg/available", "", 0o644},
		{"var/lib/dpkg/info/format", "1\n", 0o644},
		{"usr/sbin/policy-rc.d", policyRC, 0o755},
		{"etc/hostname", "localhost\n", 0o644},
		{"etc/fstab", "", 0o644},
	}
	for _, f := range files {
		if err := root.MkdirAll(path.Dir(f.name), 0o755); err != nil {
			return err
		}
		if err := root.WriteFile(f.name, []byte(f.content), f.mode); err != nil {
			return err
		}
	}
	return root.MkdirAll("var/lib/dpkg/updates", 0o755)
}

// firstPackages must be installed before all others, whose scripts count on
// the users and files that these bring.
var firstPackages = []string{"base-passwd", "base-files"}

// configureEssential lets dpkg install the essential packages.
func (b *bootstrap) configureEssential(ctx context.Context) error {
	force := []string{"--force-depends", "--install"}
	var others []Package
	for _, p := range b.essential {
		if !slices.Contains(firstPackages, p.Name) {
			others = append(others, p)
		}
	}
	for _, first := range firstPackages {
		if b.debs[first] == "" {
			continue
		}
		if err := b.dpkg(ctx, append(force, b.inside(first))...); err != nil {
			return err
		}
	}
	return b.dpkg(ctx, append(force, b.insideAll(others)...)...)
}

// install unpacks and configures the other packages, the required ones first:
// scripts of others use them without saying so (passwd, for one, turns shadow
// passwords on).
func (b *bootstrap) install(ctx context.Context) error {
	required, err := closure(b.all, func(p Package) bool { return p.Essential || p.Priority == "required" })
	if err != nil {
		return fmt.Errorf("cannot order packages: %w", err)
	}
	if err := b.installRounds(ctx, required, b.essential); err != nil {
		return err
	}
	return b.installRounds(ctx, b.all, required)
}

// installRounds installs all but those that are done, in as many rounds as
// their Pre-Depends ask for: mostly one.
func (b *bootstrap) installRounds(ctx context.Context, all, done []Package) error {
	rounds, err := rounds(all, done)
	if err != nil {
		return fmt.Errorf("cannot order packages: %w", err)
	}
	for _, round := range rounds {
		if err := b.dpkg(ctx, append([]string{"--unpack"}, b.insideAll(round)...)...); err != nil {
			return err
		}
		if err := b.dpkg(ctx, "--configure", "--pending"); err != nil {
			return err
		}
	}
	return nil
}

// dpkg runs the new system's dpkg.
func (b *bootstrap) dpkg(ctx context.Context, args ...string) error {
	chroot := Chroot{
		Dir:    b.spec.Dir,
		Binds:  []Bind{{Source: debDir(b.archive.fetch.cache), Target: debsInside}},
		NoSync: true, // an interrupted build is thrown away
		Hold:   b.spec.Hold,
		Output: b.spec.Log,
	}
	return chroot.Run(ctx, append([]string{"dpkg", "--force-unsafe-io", "--force-confold"}, args...)...)
}

// inside is where the new system sees the .deb of a package.
func (b *bootstrap) inside(name string) string { return debsInside + "/" + path.Base(b.debs[name]) }

func (b *bootstrap) insideAll(packages []Package) []string {
	var paths []string
	for _, p := range packages {
		paths = append(paths, b.inside(p.Name))
	}
	return paths
}

// leftovers are removed after the last package: what must be unique to a
// machine, and what only the build needed.
var leftovers = []string{
	"usr/sbin/policy-rc.d",
	"etc/ssh/ssh_host_*_key", "etc/ssh/ssh_host_*_key.pub",
	"var/lib/dbus/machine-id",
	"var/lib/systemd/random-seed",
	"var/cache/apt/*.bin",
	"var/lib/dpkg/*-old", "var/cache/debconf/*-old", "var/backups/*",
	"etc/*-", // passwd-, shadow- and so on
	"var/log/dpkg.log", "var/log/apt/*", "var/log/alternatives.log",
	"root/.rnd",
}

// clean removes leftovers and empties machine-id: an empty file makes systemd
// choose one at boot without taking the boot for an installation.
func (b *bootstrap) clean(context.Context) error {
	root, err := os.OpenRoot(b.spec.Dir)
	if err != nil {
		return fmt.Errorf("cannot clean the new system: %w", err)
	}
	defer root.Close()
	for _, pattern := range leftovers {
		names, err := fs.Glob(root.FS(), pattern)
		if err != nil {
			return fmt.Errorf("cannot clean the new system: %w", err)
		}
		for _, name := range names {
			if err := root.RemoveAll(name); err != nil {
				return fmt.Errorf("cannot clean the new system: %w", err)
			}
		}
	}
	if err := root.WriteFile("etc/machine-id", nil, 0o444); err != nil {
		return fmt.Errorf("cannot clean the new system: %w", err)
	}
	return b.writeSources(root)
}

// writeSources tells the new system's apt where its packages come from.
func (b *bootstrap) writeSources(root *os.Root) error {
	if err := root.MkdirAll("etc/apt/sources.list.d", 0o755); err != nil {
		return fmt.Errorf("cannot write apt's sources: %w", err)
	}
	var text strings.Builder
	for _, s := range b.archive.Sources() {
		fmt.Fprintf(&text, "deb %s %s main\n", s.URL, s.Suite)
	}
	if err := root.WriteFile("etc/apt/sources.list", []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("cannot write apt's sources: %w", err)
	}
	return nil
}

// closure gives those of all that start says, and what they depend on within
// all, in the order of all.
func closure(all []Package, start func(Package) bool) ([]Package, error) {
	set := newSelection(all)
	wanted := map[string]bool{}
	var queue []*Package
	want := func(p *Package) {
		if !wanted[p.Name] {
			wanted[p.Name] = true
			queue = append(queue, p)
		}
	}
	for i := range all {
		if start(all[i]) {
			want(&all[i])
		}
	}
	for len(queue) > 0 {
		p := queue[0]
		queue = queue[1:]
		relations, err := p.needs()
		if err != nil {
			return nil, err
		}
		for _, met := range set.meeting(relations) {
			want(met)
		}
	}
	var found []Package
	for _, p := range all {
		if wanted[p.Name] {
			found = append(found, p)
		}
	}
	return found, nil
}

// rounds divides all but those that are done into groups, such that what a
// package of one group pre-depends on is configured with an earlier one.
func rounds(all, done []Package) ([][]Package, error) {
	ready := map[string]bool{}
	for _, p := range done {
		ready[p.Name] = true
	}
	var result [][]Package
	for {
		rest := without(all, ready)
		if len(rest) == 0 {
			return result, nil
		}
		round, err := firstRound(all, rest, ready)
		if err != nil {
			return nil, err
		}
		for _, p := range round {
			ready[p.Name] = true
		}
		result = append(result, round)
	}
}

// firstRound narrows rest down to what must come before the others.
func firstRound(all, rest []Package, ready map[string]bool) ([]Package, error) {
	set := newSelection(all)
	for {
		first := map[string]bool{}
		for _, p := range rest {
			relations, err := parseRelations(p.Name, p.preDepends)
			if err != nil {
				return nil, err
			}
			for _, met := range set.meeting(relations) {
				if !ready[met.Name] {
					first[met.Name] = true
				}
			}
		}
		if len(first) == 0 {
			return rest, nil
		}
		narrower, err := closure(all, func(p Package) bool { return first[p.Name] })
		if err != nil {
			return nil, err
		}
		narrower = without(narrower, ready)
		if len(narrower) >= len(rest) {
			return nil, errors.New("packages pre-depend on each other")
		}
		rest = narrower
	}
}

func without(packages []Package, names map[string]bool) []Package {
	var rest []Package
	for _, p := range packages {
		if !names[p.Name] {
			rest = append(rest, p)
		}
	}
	return rest
}
