package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"

	"github.com/banger-vm/banger/internal/download"
)

// How patient a fetch is.
const (
	maxAttempts  = 6
	firstBackoff = 500 * time.Millisecond
	lastBackoff  = 8 * time.Second
	stallTimeout = 30 * time.Second // without one byte
	dialTimeout  = 10 * time.Second
	parallel     = 8 // transfers at once
)

// fetcher gets files over HTTP: it retries, resumes and checks.
type fetcher struct {
	client  *http.Client
	cache   string
	keys    openpgp.EntityList
	now     func() time.Time
	backoff time.Duration

	mu       sync.Mutex
	aptProxy map[string]*url.URL // by host: the proxy that apt would use for it
}

func newFetcher(opts Options) (*fetcher, error) {
	keys, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(opts.Keyring))
	if err != nil {
		return nil, fmt.Errorf("cannot read the archive's keys: %w", err)
	}
	f := &fetcher{cache: opts.Cache, keys: keys, now: opts.Now, backoff: opts.backoff, aptProxy: map[string]*url.URL{}}
	fromEnvironment := opts.Proxy
	if fromEnvironment == nil {
		fromEnvironment = http.ProxyFromEnvironment
	}
	f.client = &http.Client{Transport: &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if proxy, ok := f.proxyOf(r.URL.Host); ok {
				return proxy, nil
			}
			return fromEnvironment(r)
		},
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: stallTimeout,
		MaxIdleConnsPerHost:   parallel,
		IdleConnTimeout:       stallTimeout,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
	}}
	return f, nil
}

// useAptProxy makes requests to host go where the host's apt would send them;
// a nil proxy means directly.
func (f *fetcher) useAptProxy(host string, proxy *url.URL) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aptProxy[host] = proxy
}

func (f *fetcher) proxyOf(host string) (*url.URL, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	proxy, ok := f.aptProxy[host]
	return proxy, ok
}

// isAbsent tells that the server is there and the file is not.
func isAbsent(err error) bool {
	var status *download.StatusError
	if !errors.As(err, &status) {
		return false
	}
	return status.Code == http.StatusNotFound || status.Code == http.StatusGone || status.Code == http.StatusForbidden
}

// isFinal tells errors that a retry does not mend.
func isFinal(err error) bool {
	var status *download.StatusError
	if errors.As(err, &status) {
		return status.Code < 500 && status.Code != http.StatusTooManyRequests && status.Code != http.StatusRequestTimeout
	}
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// small gets a file that is held in memory, of at most limit bytes.
func (f *fetcher) small(ctx context.Context, address string, limit int64, attempts int) ([]byte, error) {
	var data []byte
	err := f.retry(ctx, attempts, func(ctx context.Context) error {
		body, _, err := f.get(ctx, address, 0)
		if err != nil {
			return err
		}
		defer body.Close()
		data, err = io.ReadAll(io.LimitReader(body, limit+1))
		return err
	})
	if err != nil {
		return nil, fetchError(ctx, address, err)
	}
	if int64(len(data)) > limit {
		return nil, untrusted(fmt.Errorf("cannot trust %s: it has more than %d bytes", withoutPassword(address), limit))
	}
	return data, nil
}

// fetchError says which transfer failed; a cancelled one is no mirror's fault.
func fetchError(ctx context.Context, address string, err error) error {
	var cause *url.Error
	if errors.As(err, &cause) {
		err = cause.Err // its text repeats the address, password included
	}
	err = fmt.Errorf("cannot fetch %s: %w", withoutPassword(address), err)
	if ctx.Err() != nil || isUntrusted(err) {
		return err
	}
	return unreachable(err)
}

// retry tries until it works, the error is final, or attempts are used up.
func (f *fetcher) retry(ctx context.Context, attempts int, try func(context.Context) error) error {
	pause := f.backoff
	for attempt := 1; ; attempt++ {
		err := try(ctx)
		if err == nil || ctx.Err() != nil || isFinal(err) || isUntrusted(err) || attempt == attempts {
			return err
		}
		if !wait(ctx, pause/2+rand.N(pause/2+1)) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, max(lastBackoff, f.backoff))
	}
}

// wait tells whether the pause went by without the context ending.
func wait(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// get starts a transfer from offset, and says from where the server really
// sends.
func (f *fetcher) get(ctx context.Context, address string, offset int64) (io.ReadCloser, int64, error) {
	body, err := download.Get(ctx, download.Request{Client: f.client, Address: address, Offset: offset, Stall: stallTimeout})
	if err != nil {
		return nil, 0, err
	}
	return body, body.From, nil
}
