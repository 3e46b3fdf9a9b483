package op

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/progress"
)

// serve runs one operation behind a real HTTP server and gives its events and
// the log.
func serve(t *testing.T, work func(ctx context.Context, o *Op)) ([]api.Event, string) {
	t.Helper()
	var log bytes.Buffer
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, o := Begin(r.Context(), w, slog.New(slog.NewTextHandler(&log, nil)))
		if progress.Operation(ctx) != o.ID {
			t.Errorf("the work is told the id %q, and it is %q", progress.Operation(ctx), o.ID)
		}
		work(ctx, o)
	}))
	defer server.Close()
	answer, err := server.Client().Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var events []api.Event
	for lines := json.NewDecoder(answer.Body); lines.More(); {
		var e api.Event
		if err := lines.Decode(&e); err != nil {
			t.Fatal(err)
		}
		events = append(events, e)
	}
	server.Close()
	return events, log.String()
}

func TestAnOperationTellsItsCourse(t *testing.T) {
	events, log := serve(t, func(_ context.Context, o *Op) {
		o.Report(progress.Event{Step: "first"})
		o.Report(progress.Event{Step: "second", Detail: "a"})
		o.Report(progress.Event{Step: "first", Detail: "beware", Warning: true})
		o.Report(progress.Event{Step: "second", Detail: "b"})
		o.Report(progress.Event{Step: "third one"})
		o.Result(api.Result{Pruned: []string{"x"}})
	})
	last := events[len(events)-1]
	if last.Result == nil || last.Result.Operation == nil {
		t.Fatalf("the last event is %+v", last)
	}
	course := last.Result.Operation
	var names []string
	for _, s := range course.Steps {
		names = append(names, s.Name)
		if s.Took < 0 || s.Took > course.Took {
			t.Errorf("step %s took %v of %v", s.Name, s.Took, course.Took)
		}
	}
	if got := strings.Join(names, ", "); got != "first, second, third one" {
		t.Errorf("the steps are %s", got)
	}
	for _, e := range events[:len(events)-1] {
		if e.Step.Operation != course.ID {
			t.Errorf("an event is of operation %q, not %q", e.Step.Operation, course.ID)
		}
	}
	if strings.Contains(log, "gone") {
		t.Errorf("its client stayed, and the log says: %s", log)
	}
	for _, word := range []string{"msg=done", "op=" + course.ID, "first=", "third-one="} {
		if !strings.Contains(log, word) {
			t.Errorf("%s is not in the log: %s", word, log)
		}
	}
}

func TestAFailureIsLoggedWithItsOperation(t *testing.T) {
	var id string
	events, log := serve(t, func(_ context.Context, o *Op) {
		id = o.ID
		o.Report(progress.Event{Step: "first"})
		o.Fail(&api.Error{Kind: api.KindHost, Message: "it broke"})
	})
	if last := events[len(events)-1]; last.Error == nil || last.Error.Message != "it broke" {
		t.Errorf("the last event is %+v", last)
	}
	for _, word := range []string{"level=WARN", "op=" + id, "kind=host", `error="it broke"`, "first="} {
		if !strings.Contains(log, word) {
			t.Errorf("%s is not in the log: %s", word, log)
		}
	}
}
