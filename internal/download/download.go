// Package download asks servers for files over HTTP, or for the rest of one of
// which a part is there.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// Request says what to ask for.
type Request struct {
	Client  *http.Client
	Address string
	Offset  int64         // how much of the file is there already
	IfRange string        // the validator of what is there; "": none is known
	Stall   time.Duration // how long nothing may come while it is waited for
}

// Body is what a server sends of a file. It ends with an error when nothing
// comes for long.
type Body struct {
	io.ReadCloser
	From   int64 // where in the file it begins: at the offset, or at 0
	Length int64 // how much comes; negative: the server does not say
	Header http.Header
}

// StatusError is an answer that is no file.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Code, http.StatusText(e.Code))
}

// Get begins a transfer. Where a server can't go on from the offset, the whole
// file comes. Errors are a *[StatusError] or the client's.
func Get(parent context.Context, r Request) (Body, error) {
	ctx, cancel := context.WithCancelCause(parent)
	response, err := r.do(ctx)
	if err != nil {
		cancel(nil)
		return Body{}, err
	}
	body := Body{Length: response.ContentLength, Header: response.Header}
	switch {
	case response.StatusCode == http.StatusPartialContent && startsAt(response, r.Offset):
		body.From = r.Offset
	case response.StatusCode == http.StatusOK:
	default:
		response.Body.Close()
		cancel(nil)
		if r.Offset > 0 && (response.StatusCode == http.StatusRequestedRangeNotSatisfiable || response.StatusCode == http.StatusPartialContent) {
			r.Offset = 0 // what is there may be longer than the file
			return Get(parent, r)
		}
		return Body{}, &StatusError{response.StatusCode}
	}
	body.ReadCloser = &watched{ctx, response.Body, cancel, r.Stall}
	return body, nil
}

func (r Request) do(ctx context.Context) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.Address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("User-Agent", "banger")
	if r.Offset > 0 {
		request.Header.Set("Range", fmt.Sprintf("bytes=%d-", r.Offset))
		if r.IfRange != "" {
			request.Header.Set("If-Range", r.IfRange)
		}
	}
	return r.Client.Do(request)
}

// startsAt checks "Content-Range: bytes <offset>-<end>/<size>".
func startsAt(r *http.Response, offset int64) bool {
	var first, last int64
	n, _ := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/", &first, &last)
	return n == 2 && first == offset
}

// stallError is the end of a transfer in which nothing moved.
type stallError struct{ after time.Duration }

func (e *stallError) Error() string { return fmt.Sprintf("nothing came for %s", e.after) }

// watched is a body that is cut off when nothing comes. Only who waits for
// something counts the time: what becomes of the bytes may take longer.
type watched struct {
	ctx    context.Context
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	stall  time.Duration
}

// Read implements [io.Reader].
func (w *watched) Read(p []byte) (int, error) {
	timer := time.AfterFunc(w.stall, func() { w.cancel(&stallError{w.stall}) })
	defer timer.Stop()
	n, err := w.body.Read(p)
	var stalled *stallError
	if err != nil && errors.As(context.Cause(w.ctx), &stalled) {
		err = stalled // and not that the context is cancelled, which nobody has asked for
	}
	return n, err
}

// Close implements [io.Closer].
func (w *watched) Close() error {
	err := w.body.Close()
	w.cancel(nil)
	return err
}
