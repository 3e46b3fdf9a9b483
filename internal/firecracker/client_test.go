package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
)

// recorder is a small server that takes every request of a release, answers
// with what the description promises, and keeps what it was asked.
type recorder struct {
	version string

	mu       sync.Mutex
	requests []recorded
}

type recorded struct {
	method, path string
	chunked      bool
	body         any
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	content, _ := io.ReadAll(request.Body)
	var body any
	if len(content) > 0 {
		if err := json.Unmarshal(content, &body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	r.mu.Lock()
	r.requests = append(r.requests, recorded{request.Method, request.URL.Path, len(request.TransferEncoding) > 0, body})
	r.mu.Unlock()
	if request.Method != http.MethodGet {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_, _ = io.WriteString(w, `{"firecracker_version":"`+r.version+`"}`)
}

// serve returns a client of the recorder, over a unix socket.
func (r *recorder) serve(t *testing.T) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: r}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	client := NewClient(socket)
	t.Cleanup(client.Close)
	return client
}

// full is a body with every field set, to something that the description
// allows.
func full[T any]() T {
	var body T
	fill(reflect.ValueOf(&body).Elem(), "")
	return body
}

// someValues are for fields that take only some strings or numbers.
var someValues = map[string]any{
	"action_type": ActionInstanceStart, "state": Paused, "cache_type": CacheWriteback, "io_engine": EngineSync,
	"cpu_template": CPUTemplate("T2"), "huge_pages": HugePages2M, "level": LogLevel("Info"), "version": MMDSVersion("V2"),
	"vcpu_count": 2, "guest_cid": uint32(3), "mtu": 1500,
}

func fill(v reflect.Value, name string) {
	if value, ok := someValues[name]; ok {
		v.Set(reflect.ValueOf(value))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), JSONName(v.Type().Field(i)))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), "")
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), "")
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	default:
		v.Set(reflect.ValueOf(1).Convert(v.Type()))
	}
}

// everyCall is each method of the client, with full bodies and with the
// least.
func everyCall(ctx context.Context, c *Client) error {
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	ask := func(_ any, err error) { errs = append(errs, err) }
	ask(c.Version(ctx))
	ask(c.Describe(ctx))
	ask(c.VMConfig(ctx))
	ask(c.MachineConfig(ctx))
	ask(c.BalloonStats(ctx))
	do(c.PutMachineConfig(ctx, full[MachineConfig]()))
	do(c.PutMachineConfig(ctx, MachineConfig{VCPUCount: 1, MemSizeMiB: 128}))
	do(c.PutBootSource(ctx, full[BootSource]()))
	do(c.PutBootSource(ctx, BootSource{KernelImagePath: "kernel"}))
	do(c.PutDrive(ctx, full[Drive]()))
	do(c.PutDrive(ctx, Drive{DriveID: "x", PathOnHost: "base"}))
	do(c.PatchDrive(ctx, full[DriveUpdate]()))
	do(c.PutNetworkInterface(ctx, full[NetworkInterface]()))
	do(c.PutNetworkInterface(ctx, NetworkInterface{IfaceID: "x", HostDevName: "tap"}))
	do(c.PatchNetworkInterface(ctx, full[NetworkInterfaceUpdate]()))
	do(c.PutVsock(ctx, full[Vsock]()))
	do(c.PutEntropy(ctx, full[Entropy]()))
	do(c.PutEntropy(ctx, Entropy{}))
	do(c.PutBalloon(ctx, full[Balloon]()))
	do(c.PutBalloon(ctx, Balloon{}))
	do(c.PatchBalloon(ctx, full[BalloonUpdate]()))
	do(c.PutLogger(ctx, full[Logger]()))
	do(c.PutMetrics(ctx, full[Metrics]()))
	do(c.FlushMetrics(ctx))
	do(c.InstanceStart(ctx))
	do(c.SendCtrlAltDel(ctx))
	do(c.PatchVM(ctx, Paused))
	do(c.PatchVM(ctx, Resumed))
	return errors.Join(errs...)
}

func TestEveryRequestIsAsDescribed(t *testing.T) {
	r := &recorder{version: "1.17.0-dev"}
	if err := everyCall(t.Context(), r.serve(t)); err != nil {
		t.Fatal(err)
	}
	s := readSpec(t)
	var asked []string
	for _, request := range r.requests {
		name, op := s.operation(request)
		asked = append(asked, name)
		if request.chunked {
			t.Errorf("%s has no Content-Length", name)
		}
		for _, wrong := range s.checkRequest(op, request) {
			t.Errorf("%s: %s", name, wrong)
		}
	}
	for _, name := range modelled {
		if !slices.Contains(asked, name) {
			t.Errorf("no method of the client asks for %s", name)
		}
	}
	if asked[0] != "GET /version" {
		t.Errorf("the first request is %s, not for the version", asked[0])
	}
}

// operation is what the request is, by the description's name for it.
func (s spec) operation(r recorded) (string, operation) {
	path := r.path
	for _, collection := range []string{"/drives/{drive_id}", "/network-interfaces/{iface_id}"} {
		if prefix, _, _ := strings.Cut(collection, "{"); strings.HasPrefix(path, prefix) {
			path = collection
		}
	}
	return r.method + " " + path, s.Paths[path][strings.ToLower(r.method)]
}

func (s spec) checkRequest(op operation, r recorded) []string {
	if op.Responses == nil {
		return []string{"it is not in the description"}
	}
	for _, parameter := range op.Parameters {
		if parameter.In == "body" {
			return s.check("body", parameter.Schema, r.body)
		}
	}
	if r.body != nil {
		return []string{"it has a body"}
	}
	return nil
}

func TestAnOlderReleaseIsNotAskedForNewerFields(t *testing.T) {
	r := &recorder{version: "1.12.1"}
	client := r.serve(t)
	err := client.PutNetworkInterface(t.Context(), NetworkInterface{IfaceID: "a", HostDevName: "tap", MTU: 1400})
	tooOld, ok := errors.AsType[*TooOldError](err)
	if !ok || tooOld.Field != "mtu" || tooOld.Since != (Version{1, 16, 0, ""}) || tooOld.Running != (Version{1, 12, 1, ""}) {
		t.Errorf("an MTU is answered %v", err)
	}
	if err := client.PutBalloon(t.Context(), Balloon{AmountMiB: 1, FreePageReporting: true}); err != nil {
		t.Error(err)
	}
	last := r.requests[len(r.requests)-1]
	if _, sent := last.body.(map[string]any)["free_page_reporting"]; sent || last.path != "/balloon" {
		t.Errorf("the release was sent %s %v", last.path, last.body)
	}
	if len(r.requests) != 2 {
		t.Errorf("%d requests were sent, expected the version's and the balloon's", len(r.requests))
	}
}

func TestVersionsAreComparedByNumber(t *testing.T) {
	for _, test := range []struct {
		v, w    string
		atLeast bool
	}{
		{"1.12.1", "1.12", true}, {"1.12.1", "1.12.2", false}, {"1.9.0", "1.12", false},
		{"2.0.0", "1.99.9", true}, {"v1.16.1", "1.16.1", true}, {"1.17.0-dev", "1.17", true},
	} {
		v, errV := ParseVersion(test.v)
		w, errW := ParseVersion(test.w)
		if err := errors.Join(errV, errW); err != nil {
			t.Fatal(err)
		}
		if v.AtLeast(w) != test.atLeast {
			t.Errorf("%s at least %s: %t", v, w, !test.atLeast)
		}
	}
	for _, text := range []string{"", "1", "1.x", "1.2.3.4", "-1.2", "1.99999999"} {
		if v, err := ParseVersion(text); err == nil {
			t.Errorf("%q is read as %s", text, v)
		}
	}
}

func TestReleasesThatLoseVsock(t *testing.T) {
	for text, loses := range map[string]bool{"1.12.1": false, "1.15.1": false, "1.16.0": true, "1.16.1": true, "1.16.2": false, "1.17.0": false} {
		v, err := ParseVersion(text)
		if err != nil {
			t.Fatal(err)
		}
		if v.LosesVsockOnResume() != loses {
			t.Errorf("%s: %t", text, !loses)
		}
	}
}

func TestAFaultIsWhatTheVMMSaid(t *testing.T) {
	for body, message := range map[string]string{
		`{"fault_message":"no"}`:   "no",
		`{ "error": "too large" }`: `{ "error": "too large" }`,
		"garbage\n":                "garbage",
	} {
		fault := faultOf(http.StatusBadRequest, []byte(body))
		if fault.Message != message || fault.Status != http.StatusBadRequest {
			t.Errorf("%s is %+v", body, fault)
		}
	}
}
