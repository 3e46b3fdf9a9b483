package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
	"github.com/banger-vm/banger/internal/registryauth"
)

// parallel is how many layers come at once.
const parallel = 4

// Registry finds images in registries.
type Registry struct {
	Cache Cache
	// PlainHTTP allows registries that are not on this host to be asked
	// without TLS.
	PlainHTTP bool
}

// Resolve finds the image that a reference names for a platform, like
// "linux/amd64"; empty is the host's. Credentials are those of Docker's
// configuration and its helpers. Errors carry an *api.Error: not-found,
// unauthorized, unreachable, untrusted or bad-request.
func (r *Registry) Resolve(ctx context.Context, ref Reference, wanted string, report progress.Func) (*Image, error) {
	want, err := parsePlatform(wanted)
	if err != nil {
		return nil, err
	}
	report(progress.Event{Step: StepResolve, Detail: ref.String()})
	s, err := r.connect(ctx, ref, report)
	if err != nil {
		return nil, fmt.Errorf("cannot look up %s: %w", ref, explain(ref, err))
	}
	image, err := s.resolve(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("cannot look up %s: %w", ref, s.explain(ctx, err))
	}
	return image, nil
}

// session is a connection to one repository.
type session struct {
	cache  Cache
	ref    Reference
	client *http.Client
	tr     http.RoundTripper
	report progress.Func
}

func (r *Registry) connect(ctx context.Context, ref Reference, report progress.Func) (*session, error) {
	plain := r.PlainHTTP || ref.isLoopback()
	parsed, err := ref.withPlain(plain)
	if err != nil {
		return nil, err
	}
	auth, err := registryauth.For(ctx, parsed.Context())
	if err != nil {
		return nil, err
	}
	base := &patient{inner: baseTransport(), plain: plain, waiting: func(d time.Duration) {
		report(progress.Event{Step: StepResolve, Detail: fmt.Sprintf("%s asks to wait %s", ref.Registry(), d.Round(time.Second))})
	}}
	scopes := []string{parsed.Context().Scope(transport.PullScope)}
	tr, err := transport.NewWithContext(ctx, parsed.Context().Registry, auth, transport.NewUserAgent(base, "banger"), scopes)
	if err != nil {
		return nil, err
	}
	ref = Reference{parsed}
	return &session{cache: r.Cache, ref: ref, tr: tr, report: report, client: &http.Client{Transport: tr, CheckRedirect: checkRedirect(ref)}}, nil
}

// withPlain gives a reference that may be asked for without TLS.
func (r Reference) withPlain(plain bool) (name.Reference, error) {
	if !plain {
		return r.parsed, nil
	}
	return name.ParseReference(r.parsed.Name(), name.Insecure)
}

// checkRedirect keeps a registry elsewhere from sending requests to this host.
func checkRedirect(ref Reference) func(*http.Request, []*http.Request) error {
	return func(to *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return errors.New("the registry redirects too often")
		}
		if isLoopback(to.URL.Host) && !ref.isLoopback() {
			return badImage("%s redirects to this host", ref.Registry())
		}
		return nil
	}
}

// resolve follows indexes down to a manifest.
func (s *session) resolve(ctx context.Context, want platform) (*Image, error) {
	at := s.ref.parsed
	for range maxIndexes {
		d, err := remote.Get(at, remote.WithContext(ctx), remote.WithTransport(s.tr))
		if err != nil {
			return nil, err
		}
		if len(d.Manifest) > maxManifest {
			return nil, badImage("its manifest has %d bytes; %d is the most", len(d.Manifest), maxManifest)
		}
		switch {
		case d.MediaType.IsIndex():
			var index v1.IndexManifest
			if err := decode(d.Manifest, "index", &index); err != nil {
				return nil, err
			}
			chosen, err := choose(&index, want)
			if err != nil {
				return nil, err
			}
			at = s.ref.parsed.Context().Digest(chosen.Digest.String())
		case d.MediaType.IsImage():
			return s.image(ctx, d, want)
		default:
			return nil, badImage("it is no container image but %.100q", d.MediaType)
		}
	}
	return nil, badImage("it is an index in an index in an index, and so on")
}

// image reads a manifest and the configuration that it names.
func (s *session) image(ctx context.Context, d *remote.Descriptor, want platform) (*Image, error) {
	var m v1.Manifest
	if err := decode(d.Manifest, "manifest", &m); err != nil {
		return nil, err
	}
	if err := checkManifest(&m); err != nil {
		return nil, err
	}
	config, err := s.small(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	var layers []Layer
	ready := map[string]chan struct{}{}
	for _, l := range m.Layers {
		digest := l.Digest.String()
		if err := checkDigest(digest); err != nil {
			return nil, err
		}
		if ready[digest] == nil {
			ready[digest] = make(chan struct{})
		}
		layers = append(layers, Layer{Digest: digest, Size: l.Size, open: s.whenReady(digest, ready[digest])})
	}
	image, err := describe(config, want, layers)
	if err != nil {
		return nil, err
	}
	image.Reference, image.Digest = s.ref.String(), d.Digest.String()
	image.download = func(ctx context.Context, report progress.Func) error { return s.download(ctx, layers, ready, report) }
	image.drop = s.cache.Drop
	image.Missing = s.missing(layers)
	return image, nil
}

// missing is how many bytes of the layers are not in the cache.
func (s *session) missing(layers []Layer) int64 {
	var sum int64
	seen := map[string]bool{}
	for _, l := range layers {
		if !seen[l.Digest] && !s.cache.Holds(l.Digest, l.Size) {
			sum += l.Size
		}
		seen[l.Digest] = true
	}
	return sum
}

// whenReady opens a layer as soon as the cache holds it.
func (s *session) whenReady(digest string, ready <-chan struct{}) blobReader {
	return func(ctx context.Context) (io.ReadCloser, error) {
		select {
		case <-ready:
			return os.Open(s.cache.path(digest))
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// download brings the layers into the cache, the lowest ones first.
func (s *session) download(ctx context.Context, layers []Layer, ready map[string]chan struct{}, report progress.Func) error {
	var mu sync.Mutex
	var done, total int64
	begun := map[string]bool{}
	grown := func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		done += n
		report(progress.Event{Step: StepDownload, Done: done, Total: total})
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, l := range layers {
		if !begun[l.Digest] {
			begun[l.Digest] = true
			total += l.Size
		}
	}
	clear(begun)
	for _, l := range layers {
		if begun[l.Digest] {
			continue
		}
		begun[l.Digest] = true
		group.Go(func() error {
			if err := s.cache.ensure(ctx, l.Digest, l.Size, s.blob(l.Digest, l.Size), grown); err != nil {
				return explain(s.ref, err)
			}
			close(ready[l.Digest])
			return nil
		})
	}
	return group.Wait()
}

// blob gives a blob of the repository.
func (s *session) blob(digest string, size int64) source {
	repository := s.ref.parsed.Context()
	address := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", repository.Scheme(), repository.RegistryStr(), repository.RepositoryStr(), digest)
	return func(ctx context.Context, offset int64) (io.ReadCloser, int64, error) {
		return get(ctx, s.client, address, size, offset)
	}
}

// small gets a blob that is held in memory.
func (s *session) small(ctx context.Context, d v1.Descriptor) ([]byte, error) {
	body, _, err := s.blob(d.Digest.String(), d.Size)(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, d.Size+1))
	if err != nil {
		return nil, err
	}
	return data, checkBytes("configuration", data, d.Digest.String())
}

func checkBytes(what string, data []byte, digest string) error {
	sum := sha256.Sum256(data)
	if got := "sha256:" + hex.EncodeToString(sum[:]); got != digest {
		return &digestError{what: what, want: digest, got: got}
	}
	return nil
}

// maxSuggestions is how many tags a person is shown.
const maxSuggestions = 5

// explain gives an error its kind, and names the tags that there are when it is
// the tag that is not.
func (s *session) explain(ctx context.Context, err error) error {
	var answer *transport.Error
	explained := explain(s.ref, err)
	tag, isTag := s.ref.parsed.(name.Tag)
	if !isTag || !errors.As(err, &answer) || answer.StatusCode != http.StatusNotFound {
		return explained
	}
	near := nearest(tag.TagStr(), s.tags(ctx, tag.Context()))
	if len(near) == 0 {
		return explained
	}
	return &api.Error{Kind: api.KindNotFound, Message: explained.Error(), Hint: "there are the tags " + strings.Join(near, ", ")}
}

// tags gives the first of a repository's tags, none when they can't be had.
func (s *session) tags(ctx context.Context, repository name.Repository) []string {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	puller, err := remote.NewPuller(remote.WithTransport(s.tr), remote.WithPageSize(1000))
	if err != nil {
		return nil
	}
	lister, err := puller.Lister(ctx, repository)
	if err != nil || !lister.HasNext() {
		return nil
	}
	page, err := lister.Next(ctx)
	if err != nil {
		return nil
	}
	return page.Tags
}

// nearest gives the words that begin most like the one wanted.
func nearest(want string, words []string) []string {
	best := map[int][]string{}
	longest := 0
	for _, w := range words {
		n := commonPrefix(want, w)
		best[n] = append(best[n], w)
		longest = max(longest, n)
	}
	var near []string
	for n := longest; n >= 0 && len(near) < maxSuggestions; n-- {
		near = append(near, best[n]...)
	}
	return near[:min(len(near), maxSuggestions)]
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
