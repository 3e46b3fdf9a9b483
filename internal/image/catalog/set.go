package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
)

// Embedded is the source of the catalog that is part of the program.
const Embedded = "embedded"

// Set is several catalogs. The embedded one comes first, so none can change
// what its names mean; then those of Sources, in their order. The first that
// has a name wins. A Set may be used by many at once.
type Set struct {
	// Sources are paths and addresses of catalogs.
	Sources []string

	mu   sync.Mutex
	read map[string]reading
}

// reading is a catalog from elsewhere as it was lately.
type reading struct {
	entries []Entry
	at      time.Time
}

// fresh is how long a catalog from elsewhere is not asked for again.
const fresh = time.Minute

// maxFile bounds a catalog's file.
const maxFile = 4 << 20

// readTimeout bounds the wait for one catalog.
const readTimeout = 20 * time.Second

// Listing is what one catalog has, or why it could not be read.
type Listing struct {
	Source  string
	Entries []Entry
	Err     error
}

// List reads all catalogs.
func (s *Set) List(ctx context.Context) []Listing {
	all := []Listing{{Source: Embedded, Entries: All()}}
	for _, source := range s.Sources {
		entries, err := s.entries(ctx, source)
		all = append(all, Listing{Source: source, Entries: entries, Err: err})
	}
	return all
}

// Find gives the entry of a name, and whether there is one. Catalogs are asked
// in their order, and no further than needed. A catalog that can't be read is an
// error when none of the others has the name: it may be the one that does.
func (s *Set) Find(ctx context.Context, name string) (Entry, bool, error) {
	var errs []error
	for _, source := range append([]string{Embedded}, s.Sources...) {
		entries, err := s.entries(ctx, source)
		errs = append(errs, err)
		for _, e := range entries {
			if e.Name == name {
				return e, true, nil
			}
		}
	}
	return Entry{}, false, errors.Join(errs...)
}

func (s *Set) entries(ctx context.Context, source string) ([]Entry, error) {
	if source == Embedded {
		return All(), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.read[source]; ok && time.Since(r.at) < fresh {
		return r.entries, nil
	}
	entries, err := readSource(ctx, source, readTimeout)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, unreadable(source, err)
	}
	if s.read == nil {
		s.read = map[string]reading{}
	}
	s.read[source] = reading{entries, time.Now()}
	return entries, nil
}

// unreadable says what to do about a catalog: about one that is not reached,
// what Open says, else it is a matter of the settings or of its keeper's.
func unreadable(source string, err error) error {
	told := &api.Error{
		Kind: api.KindUntrusted, Message: fmt.Sprintf("cannot read the catalog %s: %v", source, err),
		Hint: "look at `catalogs` in config.toml; if that is right, tell who keeps the catalog",
	}
	var cause *api.Error
	var local *fs.PathError
	switch {
	case errors.As(err, &cause):
		told.Kind = cause.Kind
	case errors.As(err, &local):
		told.Kind = api.KindHost
	}
	switch {
	case errors.Is(err, ErrNewer):
		told.Hint = "get a newer banger, or take it out of `catalogs` in config.toml"
	case told.Kind == api.KindUnreachable:
		told.Hint = cause.Hint
	}
	return told
}

func readSource(ctx context.Context, source string, timeout time.Duration) ([]Entry, error) {
	slow := fmt.Errorf("it takes longer than %s", timeout)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, slow)
	defer cancel()
	r, err := Open(ctx, source)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if errors.Is(err, slow) {
		return nil, unreachable(source, err)
	}
	if err != nil {
		return nil, err
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("it is larger than %d MiB", maxFile>>20)
	}
	f, err := Parse(text)
	if err != nil {
		return nil, err
	}
	for i := range f.Images {
		e := &f.Images[i]
		e.Catalog = source
		if e.Type != TypeBundle {
			continue
		}
		if e.URL, err = Resolve(source, e.URL); err != nil {
			return nil, fmt.Errorf("its entry %q: %w", e.Name, err)
		}
	}
	return f.Images, nil
}
