// Package op is one long operation as the wire shows it: events, a line of JSON
// each, and at the end a result or an error.
package op

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
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
	// Log gets the operation's steps and its end.
	Log *slog.Logger

	begun   time.Time
	unwatch func() bool // ends the watch for a client that goes

	mu       sync.Mutex
	encoder  *json.Encoder
	control  *http.ResponseController
	lastStep string
	last     time.Time
	step     string // the one under way
	since    time.Time
	took     []api.Step
}

// Begin starts the answer to a long operation; ctx is that of its work.
func Begin(ctx context.Context, w http.ResponseWriter, log *slog.Logger) (context.Context, *Op) {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	ctx, id := progress.NewOperation(ctx)
	log = log.With("op", id)
	return ctx, &Op{
		ID: id, Log: log, begun: time.Now(), encoder: json.NewEncoder(w), control: http.NewResponseController(w),
		unwatch: context.AfterFunc(ctx, func() { log.Info("its client is gone", "why", context.Cause(ctx)) }),
	}
}

// Report is the operation's [progress.Func].
func (o *Op) Report(e progress.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.enter(e, now)
	counting := e.Step == o.lastStep && e.Total > 0 && e.Done < e.Total && !e.Warning
	if counting && now.Sub(o.last) < repeat {
		return
	}
	o.lastStep, o.last = e.Step, now
	o.send(api.Event{Step: &api.StepEvent{
		Operation: o.ID, Name: e.Step, Detail: e.Detail, Done: e.Done, Total: e.Total, Warning: e.Warning,
	}})
}

// enter notes which step is under way, and how long the one before it took.
func (o *Op) enter(e progress.Event, now time.Time) {
	if e.Step == o.step || e.Warning {
		return
	}
	o.leave(now)
	o.step, o.since = e.Step, now
	o.Log.Debug("step", "name", e.Step)
}

func (o *Op) leave(now time.Time) {
	if o.step != "" {
		o.took = append(o.took, api.Step{Name: o.step, Took: now.Sub(o.since)})
	}
}

// end notes the operation's end and gives all that is known of its course.
func (o *Op) end() *api.Operation {
	o.unwatch()
	now := time.Now()
	o.leave(now)
	return &api.Operation{ID: o.ID, Took: now.Sub(o.begun), Steps: o.took}
}

// Result ends the operation well.
func (o *Op) Result(r api.Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	r.Operation = o.end()
	o.Log.Info("done", "took", r.Operation.Took.Round(time.Millisecond), "steps", course(o.took))
	o.send(api.Event{Result: &r})
}

// Fail ends the operation with an error.
func (o *Op) Fail(err *api.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	took := o.end().Took
	o.Log.Warn("failed", "kind", err.Kind, "error", err.Message, "took", took.Round(time.Millisecond), "steps", course(o.took))
	o.send(api.Event{Error: err})
}

// course is an operation's steps and times in one line.
func course(steps []api.Step) string {
	words := make([]string, len(steps))
	for i, s := range steps {
		words[i] = fmt.Sprintf("%s=%v", strings.ReplaceAll(s.Name, " ", "-"), s.Took.Round(time.Millisecond))
	}
	return strings.Join(words, " ")
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
