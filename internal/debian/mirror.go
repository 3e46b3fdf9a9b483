package debian

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/progress"
)

// defaultMirror is Debian's country-neutral mirror, used when neither the
// configuration nor the host's apt names one.
const defaultMirror = "http://ftp.debian.org/debian"

// probeAttempts is how often a mirror is asked that nobody insists on.
const probeAttempts = 2

// securityStep names the progress event of the security archive's absence.
const securityStep = "finding mirrors"

// candidate is a mirror that may carry a suite. A named one must: the
// configuration or the host's apt says that it does.
type candidate struct {
	base  string
	named bool
}

// findSuites finds each suite, ordinary ones on one mirror and security ones
// on another, and verifies their InRelease.
func findSuites(ctx context.Context, f *fetcher, opts Options, report progress.Func, names []string) ([]suite, error) {
	report(progress.Event{Step: securityStep})
	host := hostSources(opts.AptDir)
	security := func(name string) bool { return strings.HasSuffix(name, "-security") }
	ordinary := slices.DeleteFunc(slices.Clone(names), security)
	var found []suite
	if len(ordinary) > 0 {
		var err error
		if found, err = findOrdinary(ctx, f, opts, host, ordinary); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		if !security(name) {
			continue
		}
		s, err := findSecurity(ctx, f, opts, host, name)
		if err != nil {
			return nil, err
		}
		if s == nil {
			report(withoutSecurity(name))
			continue
		}
		found = append(found, *s)
	}
	if len(found) == 0 {
		return nil, notInArchive("no mirror carries any of the suites %s", strings.Join(names, ", "))
	}
	return found, nil
}

// withoutSecurity is the warning that a person must see.
func withoutSecurity(name string) progress.Event {
	return progress.Event{Step: securityStep, Warning: true, Detail: fmt.Sprintf(
		"`security_mirror` is unset and no known mirror carries %s: what is built now lacks Debian's security fixes "+
			"since the last point release; set `security_mirror` in the configuration and build again", name)}
}

// findOrdinary finds a mirror that carries the first of names, and takes from
// it those of the others that it has.
func findOrdinary(ctx context.Context, f *fetcher, opts Options, host hostApt, names []string) ([]suite, error) {
	first, err := firstCarrying(ctx, f, host, ordinaryCandidates(opts, host, names), names[0])
	if err != nil {
		return nil, err
	}
	others, err := fetchOthers(ctx, f, first.base, names[1:])
	return append([]suite{*first}, others...), err
}

// fetchOthers gets suites of a mirror that was chosen, those that it has.
func fetchOthers(ctx context.Context, f *fetcher, base string, names []string) ([]suite, error) {
	fetched := make([]*suite, len(names))
	group, ctx := errgroup.WithContext(ctx)
	for i, name := range names {
		group.Go(func() error {
			s, err := fetchSuite(ctx, f, base, name, maxAttempts)
			if err == nil {
				fetched[i] = &s
			}
			if isAbsent(err) {
				return nil
			}
			return err
		})
	}
	err := group.Wait()
	var others []suite
	for _, s := range fetched {
		if s != nil {
			others = append(others, *s)
		}
	}
	return others, err
}

// ordinaryCandidates are the mirrors in the order in which they are tried: a
// configured one only, else the host's, then Debian's.
func ordinaryCandidates(opts Options, host hostApt, names []string) []candidate {
	if opts.Mirror != "" {
		return []candidate{{base: opts.Mirror, named: true}}
	}
	return append(host.candidates(names), candidate{base: opts.fallback, named: true})
}

// firstCarrying gives the suite from the first candidate whose InRelease is
// Debian's; the error names what each of them said.
func firstCarrying(ctx context.Context, f *fetcher, host hostApt, candidates []candidate, name string) (*suite, error) {
	var errs []error
	for _, c := range candidates {
		host.applyProxy(f, c.base)
		s, err := fetchSuite(ctx, f, c.base, name, attemptsFor(c))
		if err == nil {
			return &s, nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func attemptsFor(c candidate) int {
	if c.named {
		return maxAttempts
	}
	return probeAttempts
}

// findSecurity gives the security suite, or nil where no mirror carries it. A
// mirror that should carry it and fails is an error: what cannot be had today
// must not be left out silently.
func findSecurity(ctx context.Context, f *fetcher, opts Options, host hostApt, name string) (*suite, error) {
	for _, c := range securityCandidates(opts, host, name) {
		host.applyProxy(f, c.base)
		s, err := fetchSuite(ctx, f, c.base, name, attemptsFor(c))
		if err == nil {
			return &s, nil
		}
		if ctx.Err() != nil || c.named && !passedOver(err) || opts.SecurityMirror != "" {
			return nil, err
		}
	}
	return nil, nil
}

// passedOver tells mirrors that are not Debian's: they lack the suite, or
// somebody else has signed it.
func passedOver(err error) bool {
	var expired *expiredError
	return isAbsent(err) || isUntrusted(err) && !errors.As(err, &expired)
}

// securityCandidates are tried in order: a configured one only; else, beside a
// configured mirror, its neighbour; then those that the host names, then the
// neighbour of Debian's.
func securityCandidates(opts Options, host hostApt, name string) []candidate {
	if opts.SecurityMirror != "" {
		return []candidate{{base: opts.SecurityMirror, named: true}}
	}
	var candidates []candidate
	if opts.Mirror != "" {
		candidates = append(candidates, candidate{base: neighbour(opts.Mirror)})
	}
	candidates = append(candidates, host.candidates([]string{name})...)
	return append(candidates, candidate{base: neighbour(opts.fallback)})
}

// neighbour is where a mirror of ".../debian" keeps the security archive.
func neighbour(mirror string) string {
	u, err := url.Parse(strings.TrimSuffix(mirror, "/"))
	if err != nil {
		return mirror
	}
	u.Path = path.Join(path.Dir("/"+strings.TrimPrefix(u.Path, "/")), "debian-security")
	return u.String()
}
