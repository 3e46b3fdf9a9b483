package daemon

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/daemon/op"
	"github.com/banger-vm/banger/internal/progress"
)

// A handler that panics is answered with an error, wherever it was, and logged
// with its stack; the server goes on.
func TestAPanicIsAnsweredAndLogged(t *testing.T) {
	for name, tt := range map[string]struct {
		handle func(d *Daemon, w http.ResponseWriter, r *http.Request)
		status int
		told   func(body string) *api.Error
	}{
		"before the answer": {
			func(*Daemon, http.ResponseWriter, *http.Request) { panic("a fault") }, http.StatusInternalServerError,
			func(body string) *api.Error {
				var e api.Error
				_ = json.Unmarshal([]byte(body), &e)
				return &e
			},
		},
		"within an operation": {
			func(d *Daemon, w http.ResponseWriter, r *http.Request) {
				_, o := op.Begin(r.Context(), w, d.Log)
				o.Report(progress.Event{Step: "first"})
				panic("a fault")
			}, http.StatusOK,
			func(body string) *api.Error {
				lines := strings.Split(strings.TrimSpace(body), "\n")
				var e api.Event
				_ = json.Unmarshal([]byte(lines[len(lines)-1]), &e)
				return e.Error
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log shared
			d := &Daemon{Log: slog.New(slog.NewTextHandler(&log, nil))}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				answer := &answered{ResponseWriter: w}
				defer d.survive(answer, r)
				tt.handle(d, answer, r)
			}))
			defer server.Close()
			response, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err != nil {
				t.Fatal(err)
			}
			told := tt.told(string(body))
			if response.StatusCode != tt.status || told == nil || told.Kind != api.KindInternal || !strings.Contains(told.Message, "a fault") {
				t.Errorf("answered %d: %s", response.StatusCode, body)
			}
			for _, word := range []string{"level=ERROR", "msg=panic", "panic_test.go"} {
				if !strings.Contains(log.String(), word) {
					t.Errorf("%s is not in the log: %s", word, log.String())
				}
			}
		})
	}
}

// shared is a log that is read while somebody may still write.
type shared struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}
