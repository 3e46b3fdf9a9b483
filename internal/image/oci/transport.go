package oci

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/download"
)

// How patient a pull is with a registry.
const (
	dialTimeout   = 15 * time.Second
	stallTimeout  = 45 * time.Second // without one byte
	maxAttempts   = 6                // of a request that is answered "later"
	maxRetryAfter = 2 * time.Minute  // longer is for a person to decide
	lastPause     = 8 * time.Second
	maxRedirects  = 10
)

// baseTransport is how a registry is reached.
func baseTransport() *http.Transport {
	return &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: stallTimeout,
		MaxIdleConnsPerHost:   parallel,
		IdleConnTimeout:       stallTimeout,
		ForceAttemptHTTP2:     true,
		DisableCompression:    true,
	}
}

// patient is a transport that asks again when the registry says "later", as
// late as it says, and that keeps to HTTPS where it must.
type patient struct {
	inner   http.RoundTripper
	plain   bool // HTTP without TLS is allowed
	waiting func(time.Duration)
}

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && !p.plain {
		return nil, &api.Error{
			Kind:    api.KindBadRequest,
			Message: fmt.Sprintf("%s would have to be asked without encryption", r.URL.Host),
			Hint:    "if you trust the network, --plain-http allows it",
		}
	}
	again := r.Body == nil && (r.Method == http.MethodGet || r.Method == http.MethodHead)
	for attempt := 1; ; attempt++ {
		response, err := p.inner.RoundTrip(r)
		last := !again || attempt == maxAttempts || r.Context().Err() != nil
		wait, later := backoff(response, err, attempt)
		if last || !later {
			return response, err
		}
		if response != nil {
			_, _ = io.CopyN(io.Discard, response.Body, 64<<10)
			response.Body.Close()
		}
		if p.waiting != nil && wait > time.Second {
			p.waiting(wait)
		}
		if !pause(r.Context(), wait) {
			return nil, context.Cause(r.Context())
		}
	}
}

// backoff tells whether to ask again, and when.
func backoff(response *http.Response, err error, attempt int) (time.Duration, bool) {
	wait := min(firstPause<<attempt, lastPause)
	wait = wait/2 + rand.N(wait/2+1)
	if err != nil {
		return wait, attempt < 3 && !isFinal(err)
	}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		asked, ok := retryAfter(response.Header.Get("Retry-After"))
		if !ok {
			return wait, true
		}
		return asked, asked <= maxRetryAfter
	case http.StatusRequestTimeout, http.StatusInternalServerError, http.StatusBadGateway, http.StatusGatewayTimeout:
		return wait, true
	}
	return 0, false
}

// retryAfter reads the header, in seconds or as a date (RFC 9110, 10.2.3).
func retryAfter(value string) (time.Duration, bool) {
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second, true
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0, false
	}
	return max(0, time.Until(at)), true
}

// isFinal tells errors that asking again does not mend.
func isFinal(err error) bool {
	var status *download.StatusError
	var told *api.Error
	var name *net.DNSError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(err, &status):
		return true // the transport has asked again already
	case errors.As(err, &told), errors.As(err, &plain), isLocal(err), isCertificate(err):
		return true
	case errors.As(err, &name):
		return name.IsNotFound
	}
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// isLocal tells errors of this host's files from those of a registry.
func isLocal(err error) bool {
	var file *fs.PathError
	var link *os.LinkError
	return errors.As(err, &file) || errors.As(err, &link)
}

func isCertificate(err error) bool {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid)
}

// get asks for a blob of size bytes from offset on, and says from where the
// registry really sends.
func get(ctx context.Context, client *http.Client, address string, size, offset int64) (io.ReadCloser, int64, error) {
	body, err := download.Get(ctx, download.Request{Client: client, Address: address, Offset: offset, Stall: stallTimeout})
	if err != nil {
		return nil, 0, err
	}
	if body.Length >= 0 && body.Length != size-body.From {
		body.Close()
		return nil, 0, badImage("the registry has %d bytes of a blob, and the image says %d", body.From+body.Length, size)
	}
	return body, body.From, nil
}

// explain gives a registry's error its kind. ref is what was asked for.
func explain(ref Reference, err error) error {
	var told *api.Error
	var answer *transport.Error
	var status *download.StatusError
	if errors.As(err, &told) || errors.Is(err, context.Canceled) || isLocal(err) {
		return err
	}
	switch {
	case errors.As(err, &answer):
		return explainStatus(ref, answer.StatusCode, err)
	case errors.As(err, &status):
		return explainStatus(ref, status.Code, err)
	case isCertificate(err):
		return &api.Error{Kind: api.KindUntrusted, Message: fmt.Sprintf("cannot trust %s: %v", ref.Registry(), plainText(err)),
			Hint: "if the certificate is right, add its CA to those of the system (update-ca-certificates), then `banger daemon restart`"}
	}
	return &api.Error{Kind: api.KindUnreachable, Message: fmt.Sprintf("cannot reach %s: %v", ref.Registry(), plainText(err)),
		Hint: "check the network and the registry's name; bangerd takes proxy settings from the environment that it was started in"}
}

func explainStatus(ref Reference, code int, err error) error {
	switch code {
	case http.StatusUnauthorized, http.StatusForbidden:
		return &api.Error{Kind: api.KindUnauthorized, Message: fmt.Sprintf("%s refuses access to %s", ref.Registry(), ref),
			Hint: fmt.Sprintf("there is no such image, or it needs credentials: `docker login %s`, or skopeo's or podman's login with --authfile ~/.docker/config.json", ref.Registry())}
	case http.StatusNotFound:
		return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no image %s", ref), Hint: "check the name and the tag"}
	case http.StatusTooManyRequests:
		return &api.Error{Kind: api.KindUnreachable, Message: ref.Registry() + " limits how many requests it answers, and has had enough of ours",
			Hint: fmt.Sprintf("try again later, or log in: `docker login %s` raises most limits", ref.Registry())}
	}
	return &api.Error{Kind: api.KindUnreachable, Message: fmt.Sprintf("%s failed: %v", ref.Registry(), plainText(err)), Hint: "try again later"}
}

// plainText leaves out the address, which may carry a token.
func plainText(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err
	}
	return err
}
