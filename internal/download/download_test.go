package download

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const text = "0123456789"

func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// withRanges serves text as most servers do.
func withRanges(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"1"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(text)))
}

// wrongRange sends another part than it was asked for.
func wrongRange(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Range") != "" {
		w.Header().Set("Content-Range", "bytes 1-9/10")
		w.WriteHeader(http.StatusPartialContent)
		return
	}
	_, _ = io.WriteString(w, text)
}

func TestTheRestOfAFile(t *testing.T) {
	whole := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	for name, tt := range map[string]struct {
		server  http.HandlerFunc
		offset  int64
		ifRange string
		from    int64
	}{
		"all of it":                      {withRanges, 0, "", 0},
		"the rest":                       {withRanges, 4, "", 4},
		"the rest of the same":           {withRanges, 4, `"1"`, 4},
		"of another one, all":            {withRanges, 4, `"0"`, 0},
		"more is there than the file":    {withRanges, 11, "", 0},
		"a server that knows no ranges":  {whole, 4, "", 0},
		"a server that sends other ones": {wrongRange, 4, "", 0},
	} {
		body, err := Get(t.Context(), Request{Client: http.DefaultClient, Address: serve(t, tt.server), Offset: tt.offset, IfRange: tt.ifRange, Stall: time.Minute})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || body.From != tt.from || string(got) != text[tt.from:] || body.Length != int64(len(got)) {
			t.Errorf("%s: %q from %d, %d bytes, %v", name, got, body.From, body.Length, err)
		}
	}
}

func TestAnAnswerThatIsNoFile(t *testing.T) {
	_, err := Get(t.Context(), Request{Client: http.DefaultClient, Address: serve(t, http.NotFound), Offset: 4, Stall: time.Minute})
	var status *StatusError
	if !errors.As(err, &status) || status.Code != http.StatusNotFound || !strings.Contains(err.Error(), "404 Not Found") {
		t.Errorf("%v", err)
	}
}

// The error is none of a cancelled context: who retries would take that for its
// user's wish.
func TestATransferThatStalls(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	body, err := Get(t.Context(), Request{Client: http.DefaultClient, Address: address, Stall: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if string(got) != text || err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "nothing came for 50ms") {
		t.Errorf("%q, %v", got, err)
	}
}

// Who unpacks what comes may be slow: that is no fault of the server.
func TestAReaderThatTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		body := &watched{ctx, io.NopCloser(strings.NewReader(text)), cancel, time.Minute}
		for i := range text {
			if n, err := body.Read(make([]byte, 1)); n != 1 || err != nil || context.Cause(ctx) != nil {
				t.Fatalf("byte %d: %v, %v", i, err, context.Cause(ctx))
			}
			time.Sleep(2 * time.Minute)
		}
		body.Close()
	})
}
