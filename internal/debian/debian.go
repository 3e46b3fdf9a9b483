// Package debian is a client of Debian's signed archive, and builds a Debian
// system from it without any program of the host.
//
// Trust goes in one line: a clear-signed InRelease, checked against keys that
// are part of this package, names the SHA-256 of each package index; the index
// names the size and SHA-256 of each .deb. What does not fit is refused, and so
// is an InRelease whose Valid-Until has passed.
//
// The formats are those of the Debian repository format
// (https://wiki.debian.org/DebianRepository/Format), deb-control(5), deb(5) and
// deb-version(7).
package debian

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/internal/cachedir"
	"github.com/banger-vm/banger/internal/progress"
)

// Options says where packages come from and where they are kept. Only Cache
// must be set.
type Options struct {
	// Cache is the directory for downloads, e.g. ~/.cache/banger/debian. Any
	// number of processes may share it.
	Cache string
	// Mirror is the base URL of a Debian mirror (the part before "/dists/").
	// Empty: one that the host's apt sources name, else Debian's own.
	Mirror string
	// SecurityMirror is the same for the suites that end in "-security".
	SecurityMirror string
	// AptDir is where the host's apt keeps its configuration. Empty: /etc/apt.
	AptDir string
	// Arch is Debian's name of the architecture. Empty: the host's.
	Arch string
	// Keyring holds armored public keys that may sign an InRelease. Empty:
	// Debian's.
	Keyring []byte
	// Proxy picks the proxy of a request. Nil: as http_proxy, https_proxy and
	// no_proxy say.
	Proxy func(*http.Request) (*url.URL, error)
	// Now is the clock that Valid-Until is compared with. Nil: time.Now.
	Now func() time.Time

	fallback string        // replaces defaultMirror in tests
	backoff  time.Duration // the first pause before a retry; zero: firstBackoff
}

func (o Options) withDefaults() Options {
	if o.AptDir == "" {
		o.AptDir = "/etc/apt"
	}
	if o.Arch == "" {
		o.Arch = debianArch(runtime.GOARCH)
	}
	if len(o.Keyring) == 0 {
		o.Keyring = archiveKeys
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.fallback == "" {
		o.fallback = defaultMirror
	}
	if o.backoff == 0 {
		o.backoff = firstBackoff
	}
	return o
}

// debianArch translates Go's name of an architecture to Debian's.
func debianArch(goarch string) string {
	switch goarch {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	}
	return goarch
}

// Archive is what one or more suites of a Debian archive hold for one
// architecture. It is read-only after [Open] and safe for concurrent use, until
// [Archive.Close].
type Archive struct {
	arch   string
	fetch  *fetcher
	suites []suite
	index  *index
	using  *os.File // the cache
}

// Source is a suite that an archive was opened with, and the base URL it comes
// from, without any password.
type Source struct {
	URL   string
	Suite string
}

// Open picks mirrors, verifies the signed InRelease of each suite, e.g.
// "bookworm", "bookworm-updates" and "bookworm-security", and reads their
// package lists (component main).
//
// The first suite that is not a security one must be there. Others that the
// mirror does not carry are left out; for a security suite report then gets a
// warning. Errors carry an *api.Error of kind unreachable or untrusted.
func Open(ctx context.Context, opts Options, report progress.Func, suites ...string) (*Archive, error) {
	opts = opts.withDefaults()
	f, err := newFetcher(opts)
	if err != nil {
		return nil, err
	}
	a := &Archive{arch: opts.Arch, fetch: f, index: newIndex()}
	if a.using, err = CacheDir(opts.Cache).Use(ctx); err != nil {
		return nil, err
	}
	if err := a.read(ctx, opts, report, suites); err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// CacheDir is the directory where archives with this Cache keep what they download.
func CacheDir(cache string) cachedir.Dir {
	return cachedir.Dir{Path: cache, Files: []string{"debs/*", "lists/*"}}
}

// Close ends the use of the archive: what it has downloaded may be removed, and
// its memory is free. Another Close does nothing.
func (a *Archive) Close() {
	a.using.Close()
	a.index = nil
}

func (a *Archive) read(ctx context.Context, opts Options, report progress.Func, suites []string) error {
	var err error
	if a.suites, err = findSuites(ctx, a.fetch, opts, report, suites); err != nil {
		return err
	}
	lists, err := fetchLists(ctx, a.fetch, opts.Arch, a.suites)
	if err != nil {
		return err
	}
	for i, list := range lists {
		err := list.read(func(r io.Reader) error { return a.index.add(r, a.suites[i], opts.Arch) })
		if err != nil {
			return fmt.Errorf("suite %s: %w", a.suites[i].name, err)
		}
	}
	return nil
}

// fetchLists gets the package list of each suite, side by side.
func fetchLists(ctx context.Context, f *fetcher, arch string, suites []suite) ([]packedList, error) {
	lists := make([]packedList, len(suites))
	group, ctx := errgroup.WithContext(ctx)
	for i, s := range suites {
		group.Go(func() error {
			list, err := s.packages(ctx, f, arch)
			lists[i] = list
			return err
		})
	}
	return lists, group.Wait()
}

// Sources tells the suites that were found, and where.
func (a *Archive) Sources() []Source {
	var sources []Source
	for _, s := range a.suites {
		sources = append(sources, Source{URL: withoutPassword(s.base), Suite: s.name})
	}
	return sources
}

// Has tells whether the suite was found.
func (a *Archive) Has(suite string) bool {
	for _, s := range a.suites {
		if s.name == suite {
			return true
		}
	}
	return false
}

// Find gives the newest version of each package whose name matches pattern, as
// path.Match does, sorted by name.
func (a *Archive) Find(pattern string) ([]Package, error) { return a.index.find(pattern) }

// Resolve gives the packages that are needed for names to work: themselves,
// the essential ones and those of priority "required", and everything these
// depend on; no recommendations. Essential packages come first.
func (a *Archive) Resolve(names ...string) ([]Package, error) {
	return resolve(a.index, append(names, a.index.base()...))
}

// Download gives the paths of the .deb files of packages, in their order, from
// the cache or the mirror. Each was checked for size and hash just now.
func (a *Archive) Download(ctx context.Context, packages []Package, report progress.Func) ([]string, error) {
	return a.fetch.debs(ctx, packages, report)
}

// Fetch is Find and Download for exact names, without what they depend on.
func (a *Archive) Fetch(ctx context.Context, report progress.Func, names ...string) ([]string, error) {
	var packages []Package
	for _, name := range names {
		p, err := a.index.newest(name)
		if err != nil {
			return nil, err
		}
		packages = append(packages, *p)
	}
	return a.Download(ctx, packages, report)
}

// withoutPassword is base as it may be shown and stored in an image.
func withoutPassword(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return base
	}
	u.User = nil
	return strings.TrimSuffix(u.String(), "/")
}

func debDir(cache string) string  { return filepath.Join(cache, "debs") }
func listDir(cache string) string { return filepath.Join(cache, "lists") }
