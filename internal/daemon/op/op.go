// Package op is one long operation as the wire shows it: events, a line of JSON
// each, and at the end a result or an error.
package op

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// writeTimeout is how long a client may leave an event unread before it counts
// as gone.
const writeTimeout = 30 * time.Second

// repeat is the least time between two events of the same step that differ in
// their count only.
const repeat = 100 * time.Millisecond

// Op is the stream of one operation.
type Op struct {
	ID string

	mu       sync.Mutex
	encoder  *json.Encoder
	control  *http.ResponseController
	lastStep string
	last     time.Time
}

// Begin starts the answer to a long operation.
func Begin(w http.ResponseWriter) *Op {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	var id [4]byte
	rand.Read(id[:])
	return &Op{ID: hex.EncodeToString(id[:]), encoder: json.NewEncoder(w), control: http.NewResponseController(w)}
}

// Report is the operation's [progress.Func].
func (o *Op) Report(e progress.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	counting := e.Step == o.lastStep && e.Total > 0 && e.Done < e.Total && !e.Warning
	if counting && now.Sub(o.last) < repeat {
		return
	}
	o.lastStep, o.last = e.Step, now
	o.send(api.Event{Step: &api.StepEvent{
		Operation: o.ID, Name: e.Step, Detail: e.Detail, Done: e.Done, Total: e.Total, Warning: e.Warning,
	}})
}

// Result ends the operation well.
func (o *Op) Result(r api.Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.send(api.Event{Result: &r})
}

// Fail ends the operation with an error.
func (o *Op) Fail(err *api.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.send(api.Event{Error: err})
}

// send writes one event. A client that is gone is noticed by the request's
// context, not here.
func (o *Op) send(e api.Event) {
	_ = o.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	if o.encoder.Encode(e) == nil {
		_ = o.control.Flush()
	}
	_ = o.control.SetWriteDeadline(time.Time{})
}
