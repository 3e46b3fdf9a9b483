package daemon

import (
	"context"
	"errors"
	"net/http"

	"github.com/banger-vm/banger/api"
)

// statuses gives each kind its HTTP status; a kind that is not here is 500.
var statuses = map[api.Kind]int{
	api.KindBadRequest:   http.StatusBadRequest,
	api.KindNotFound:     http.StatusNotFound,
	api.KindExists:       http.StatusConflict,
	api.KindWrongState:   http.StatusConflict,
	api.KindForbidden:    http.StatusForbidden,
	api.KindNoSpace:      http.StatusInsufficientStorage,
	api.KindExhausted:    http.StatusInsufficientStorage,
	api.KindUnreachable:  http.StatusBadGateway,
	api.KindUntrusted:    http.StatusBadGateway,
	api.KindGuestTimeout: http.StatusGatewayTimeout,
}

// kindOf makes any error one that has a kind. The text is the whole chain's,
// the kind and the hint are those of the error within that has them.
func kindOf(err error) *api.Error {
	var told *api.Error
	switch {
	case errors.As(err, &told):
		return &api.Error{Kind: told.Kind, Message: err.Error(), Hint: told.Hint}
	case errors.Is(err, context.Canceled), errors.Is(err, errShutdown):
		return &api.Error{Kind: api.KindCanceled, Message: err.Error()}
	default:
		return &api.Error{Kind: api.KindInternal, Message: err.Error(), Hint: "banger daemon logs may tell more; banger doctor checks the host"}
	}
}

// refuse answers a call that failed before anything was sent.
func (d *Daemon) refuse(w http.ResponseWriter, r *http.Request, err error) {
	told := kindOf(err)
	d.Log.Warn("refused", "call", r.Method+" "+r.URL.Path, "kind", told.Kind, "error", told.Message)
	status, ok := statuses[told.Kind]
	if !ok {
		status = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	answerError(w, told)
}
