package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/download"
)

// CheckSource tells whether s may name a catalog or what it leads to: an absolute path,
// a file URL, or an address with https. Plain http is for loopback only, since
// what comes by it could be anybody's.
func CheckSource(s string) error {
	if filepath.IsAbs(s) {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return errors.New("it is neither an absolute path nor an address")
	}
	switch {
	case u.Scheme == "file" && u.Host == "" && filepath.IsAbs(u.Path):
		return nil
	case u.Scheme == "https" && u.Host != "":
		return nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	case u.Scheme == "http" && u.Host != "":
		return errors.New("it must be https: plain http is for loopback addresses only")
	}
	return errors.New("it must be an absolute path, or an address that begins with https://")
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// Resolve gives the place of a bundle whose catalog is at source and calls it
// ref. A catalog from the network can't name a file of this host.
func Resolve(source, ref string) (string, error) {
	base, err := url.Parse(source)
	if err != nil {
		return "", fmt.Errorf("cannot use the address %s: %w", source, err)
	}
	if filepath.IsAbs(source) {
		base = &url.URL{Scheme: "file", Path: source}
	}
	u, err := url.Parse(ref)
	if err != nil {
		return "", fmt.Errorf("cannot use the address %s: %w", ref, err)
	}
	at := base.ResolveReference(u)
	if at.Scheme == "file" && base.Scheme != "file" {
		return "", errors.New("a catalog from the network names a file of this host")
	}
	if err := CheckSource(at.String()); err != nil {
		return "", fmt.Errorf("cannot use the address %s: %w", at, err)
	}
	return at.String(), nil
}

// client follows redirects only to where a catalog could have led at once.
var client = &http.Client{
	CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return errors.New("it was redirected too often")
		}
		if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" || req.URL.Scheme == "file" {
			return fmt.Errorf("it was redirected to %s, which is not https", req.URL.Redacted())
		}
		return CheckSource(req.URL.String())
	},
	Transport: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		ResponseHeaderTimeout: 60 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true, // what is fetched is packed, and its bytes are counted
	},
}

// stallTimeout is how long a transfer may bring nothing.
const stallTimeout = 45 * time.Second

// attempts is how often in a row a transfer that breaks is taken up again.
const attempts = 5

// Open gives the bytes of what is at source. A transfer that breaks on the way
// is taken up where it broke, when the server can do that and has the same file
// still. Errors carry an *api.Error of kind unreachable or not-found.
func Open(ctx context.Context, source string) (io.ReadCloser, error) {
	if err := CheckSource(source); err != nil {
		return nil, &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf("cannot fetch %s: %v", source, err)}
	}
	if path := filePath(source); path != "" {
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no file %s", path)}
		}
		return file, err
	}
	t := &transfer{ctx: ctx, url: source}
	if err := t.request(); err != nil {
		return nil, err
	}
	return t, nil
}

// filePath gives the path that source names; "" when it is elsewhere.
func filePath(source string) string {
	if filepath.IsAbs(source) {
		return source
	}
	if u, err := url.Parse(source); err == nil && u.Scheme == "file" {
		return u.Path
	}
	return ""
}

// transfer is the body of a response, or of several that together are the same.
type transfer struct {
	ctx    context.Context
	url    string
	body   io.ReadCloser
	at     int64  // bytes read so far
	etag   string // strong; "" when the server can't take up a transfer
	broken int    // times in a row without a byte
}

// request asks for the rest.
func (t *transfer) request() error {
	body, err := download.Get(t.ctx, download.Request{Client: client, Address: t.url, Offset: t.at, IfRange: t.etag, Stall: stallTimeout})
	var status *download.StatusError
	switch {
	case errors.As(err, &status):
		return refused(t.url, status)
	case err != nil:
		return unreachable(t.url, err)
	case body.From != t.at:
		body.Close()
		return changed(t.url)
	}
	t.body = body
	if t.etag = body.Header.Get("ETag"); strings.HasPrefix(t.etag, "W/") {
		t.etag = ""
	}
	if t.etag == "" {
		t.etag = body.Header.Get("Last-Modified")
	}
	return nil
}

func unreachable(at string, err error) error {
	return fmt.Errorf("%w: %w", &api.Error{
		Kind: api.KindUnreachable, Message: "cannot fetch " + at,
		Hint: "look at the network, and at https_proxy when there is a proxy; the same command goes on",
	}, err)
}

func changed(at string) error {
	return &api.Error{Kind: api.KindUnreachable, Message: fmt.Sprintf("cannot fetch %s: it changed on the server meanwhile", at), Hint: "try again"}
}

func refused(at string, status *download.StatusError) error {
	e := &api.Error{Kind: api.KindUnreachable, Message: fmt.Sprintf("cannot fetch %s: %v", at, status), Hint: "try again later"}
	if status.Code == http.StatusNotFound || status.Code == http.StatusGone {
		e.Kind, e.Hint = api.KindNotFound, "the catalog names what is not there: tell who keeps it"
	}
	return e
}

// Read implements [io.Reader].
func (t *transfer) Read(p []byte) (int, error) {
	for {
		n, err := t.body.Read(p)
		t.at += int64(n)
		if n > 0 {
			t.broken = 0
			return n, nil
		}
		if err == nil || errors.Is(err, io.EOF) {
			return 0, err
		}
		if t.ctx.Err() != nil {
			return 0, context.Cause(t.ctx)
		}
		if err := t.again(err); err != nil {
			return 0, err
		}
	}
}

// again takes up a transfer that broke with err.
func (t *transfer) again(err error) error {
	t.broken++
	if t.etag == "" || t.at == 0 || t.broken > attempts {
		return unreachable(t.url, err)
	}
	t.body.Close()
	pause := time.NewTimer(time.Duration(t.broken) * 200 * time.Millisecond)
	defer pause.Stop()
	select {
	case <-pause.C:
	case <-t.ctx.Done():
		return context.Cause(t.ctx)
	}
	return t.request()
}

// Close ends the transfer.
func (t *transfer) Close() error { return t.body.Close() }
