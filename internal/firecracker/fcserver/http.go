package fcserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// maxConns is the number of connections that the API has room for.
const maxConns = 10

// handler answers HTTP requests to the API in the form of upstream's server.
type handler struct {
	api *api
	// maxBody is in bytes.
	maxBody int64
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "Firecracker API")
	w.Header()["Date"] = nil
	body, err := h.readBody(r)
	if err != nil {
		h.api.metrics.count(true)
		writeServerError(w, err)
		return
	}
	path := absPath(r.RequestURI)
	h.api.log.logf(levelInfo, "fc_api", "The API server received a %s.", describeRequest(r.Method, path, body))
	answer, deprecated, err := h.serve(r, path, body)
	if deprecated {
		w.Header().Set("Deprecation", "true")
	}
	h.api.metrics.count(err != nil)
	if err != nil {
		h.api.log.logf(levelError, "fc_api", "Received Error. Status code: %d %s. Message: %v", statusOf(err), http.StatusText(statusOf(err)), err)
		writeJSON(w, statusOf(err), struct {
			Message string `json:"fault_message"`
		}{err.Error()})
		return
	}
	h.writeAnswer(w, answer)
}

func (h *handler) serve(r *http.Request, path string, body []byte) (answer any, deprecated bool, err error) {
	p, err := parse(request{r.Method, path, body})
	if err != nil {
		return nil, false, err
	}
	answer, err = h.api.do(r.Context(), p.run)
	return answer, p.deprecated, err
}

func (h *handler) writeAnswer(w http.ResponseWriter, answer any) {
	if answer == nil {
		h.api.log.logf(levelInfo, "fc_api", "The request was executed successfully. Status code: 204 No Content.")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.api.log.logf(levelInfo, "fc_api", "The request was executed successfully. Status code: 200 OK.")
	writeJSON(w, http.StatusOK, answer)
}

// describeRequest is upstream's log text; what is put into MMDS may be secret.
func describeRequest(method, path string, body []byte) string {
	said := strings.ToUpper(method[:1]) + strings.ToLower(method[1:])
	if len(body) == 0 || path == "/mmds" || path == "/cpu-config" {
		return fmt.Sprintf("%s request on %q", said, path)
	}
	return fmt.Sprintf("%s request on %q with body %q", said, path, body)
}

// absPath is the path of a request's URI, with a query if it has one: the API
// knows no queries.
func absPath(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://"); ok {
		_, path, _ := strings.Cut(rest, "/")
		return "/" + path
	}
	return uri
}

var errInvalidRequest = errors.New("Invalid request.") //nolint:staticcheck // upstream's text

// readBody holds the rules below the API: three methods, a body by
// Content-Length, and its limit.
func (h *handler) readBody(r *http.Request) ([]byte, error) {
	switch r.Method {
	case http.MethodGet, http.MethodPut, http.MethodPatch:
	default:
		return nil, errors.New("Invalid HTTP Method: Unsupported HTTP method.") //nolint:staticcheck // upstream's text
	}
	if r.ContentLength < 0 {
		return nil, errInvalidRequest
	}
	if r.ContentLength > h.maxBody {
		return nil, fmt.Errorf("Request payload with size %d is larger than the limit of %d allowed by server.", r.ContentLength, h.maxBody) //nolint:staticcheck // upstream's text
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, errInvalidRequest
	}
	return body, nil
}

// writeServerError answers what never reached the API. Upstream's line break
// is a bare one, which is no JSON; here it is escaped.
func writeServerError(w http.ResponseWriter, err error) {
	w.Header().Set("Connection", "close")
	writeJSON(w, http.StatusBadRequest, struct {
		Error string `json:"error"`
	}{err.Error() + "\nAll previous unanswered requests will be dropped."})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(fmt.Sprintf("fcserver: %v", err))
	}
	content := bytes.TrimSuffix(text.Bytes(), []byte("\n"))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	w.WriteHeader(status)
	// A client that is gone needs no answer.
	_, _ = w.Write(content)
}

// limitedListener answers connections beyond maxConns by itself.
type limitedListener struct {
	net.Listener
	slots chan struct{}
}

func newLimitedListener(l net.Listener) *limitedListener {
	return &limitedListener{Listener: l, slots: make(chan struct{}, maxConns)}
}

const tooMany = "HTTP/1.1 503 \r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n" +
	`{ "error": "Too many open connections" }`

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.slots <- struct{}{}:
			return &countedConn{Conn: conn, slots: l.slots}, nil
		default:
			_, _ = io.WriteString(conn, tooMany)
			conn.Close()
		}
	}
}

// countedConn gives its slot back when it is closed.
type countedConn struct {
	net.Conn
	slots chan struct{}
	once  sync.Once
}

func (c *countedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.slots })
	return err
}
