package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"

	"github.com/banger-vm/banger/api"
)

// answered is a response of which it is known whether it has begun.
type answered struct {
	http.ResponseWriter
	begun bool
}

func (a *answered) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// survive deals with a handler's panic, which is a fault of banger's: it is
// logged with the stack, and the client is told. A stream of events gets its
// error as the last one.
func (d *Daemon) survive(w *answered, r *http.Request) {
	fault := recover()
	if fault == nil {
		return
	}
	if err, ok := fault.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(fault)
	}
	d.Log.Error("panic", "call", r.Method+" "+r.URL.Path, "panic", fault, "stack", string(debug.Stack()))
	told := &api.Error{
		Kind:    api.KindInternal,
		Message: fmt.Sprintf("bangerd has a fault: %v", fault),
		Hint:    "banger daemon logs tells where; please report it",
	}
	switch {
	case !w.begun:
		d.refuse(w, r, told)
	case w.Header().Get("Content-Type") == "application/x-ndjson":
		_ = json.NewEncoder(w).Encode(api.Event{Error: told})
	default:
		panic(http.ErrAbortHandler) // half an answer must not look whole
	}
}
