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
	"strconv"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
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

// statusError is an answer that is no file.
type statusError struct{ code int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.code, http.StatusText(e.code))
}

// isAbsent tells that the server is there and the file is not.
func isAbsent(err error) bool {
	var status *statusError
	if !errors.As(err, &status) {
		return false
	}
	return status.code == http.StatusNotFound || status.code == http.StatusGone || status.code == http.StatusForbidden
}

// isFinal tells errors that a retry does not mend.
func isFinal(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code < 500 && status.code != http.StatusTooManyRequests && status.code != http.StatusRequestTimeout
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
// sends. A body that stalls ends with an error.
func (f *fetcher) get(parent context.Context, address string, offset int64) (body io.ReadCloser, from int64, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		cancel(nil)
		return nil, 0, err
	}
	request.Header.Set("User-Agent", "banger")
	if offset > 0 {
		request.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
	}
	response, err := f.client.Do(request)
	if err != nil {
		cancel(nil)
		return nil, 0, err
	}
	switch {
	case response.StatusCode == http.StatusPartialContent && offset > 0 && startsAt(response, offset):
		from = offset
	case response.StatusCode == http.StatusOK:
	case response.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset > 0:
		// What we hold is longer than the file: begin anew.
		response.Body.Close()
		cancel(nil)
		return f.get(parent, address, 0)
	default:
		response.Body.Close()
		cancel(nil)
		return nil, 0, &statusError{response.StatusCode}
	}
	return newStallReader(response.Body, cancel), from, nil
}

// startsAt checks "Content-Range: bytes <offset>-<end>/<size>".
func startsAt(r *http.Response, offset int64) bool {
	var first, last int64
	n, _ := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/", &first, &last)
	return n == 2 && first == offset
}

// stallReader cancels a transfer in which nothing moves.
type stallReader struct {
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

var errStalled = fmt.Errorf("nothing came for %s", stallTimeout)

func newStallReader(body io.ReadCloser, cancel context.CancelCauseFunc) *stallReader {
	return &stallReader{body, cancel, time.AfterFunc(stallTimeout, func() { cancel(errStalled) })}
}

func (r *stallReader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	if n > 0 {
		r.timer.Reset(stallTimeout)
	}
	return n, err
}

func (r *stallReader) Close() error {
	r.timer.Stop()
	err := r.body.Close()
	r.cancel(nil)
	return err
}
