package fcserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/banger-vm/banger/internal/firecracker"
)

// request is one HTTP request; a body of no bytes is none.
type request struct {
	method, path string
	body         []byte
}

// parsed is what a request asks for. deprecated is told in a header of the
// answer, also of an error's.
type parsed struct {
	run        act
	deprecated bool
}

// parse reads a request by upstream's rules: the first word of the path and
// the method choose, further words are looked at by some only.
func parse(r request) (parsed, error) {
	words := splitPath(r.path)
	first, second := words[0], ""
	if len(words) > 1 {
		second = words[1]
	}
	if err := checkBody(r); err != nil {
		return parsed{}, err
	}
	route, known := routes[r.method+" "+first]
	if !known || first == "vm" && r.method == "GET" && second != "config" {
		return parsed{}, unknownRequest(r.method, first)
	}
	return route(r.body, second, len(words) > 1)
}

// splitPath drops leading slashes and one at the end.
func splitPath(path string) []string {
	return strings.Split(strings.TrimSuffix(strings.TrimLeft(path, "/"), "/"), "/")
}

func unknownRequest(method, path string) error {
	return fmt.Errorf("Invalid request method and/or path: %s %s.", method, path) //nolint:staticcheck // upstream's text
}

func checkBody(r request) error {
	switch {
	case r.method == "GET" && len(r.body) > 0:
		return errors.New("GET request cannot have a body.") //nolint:staticcheck // upstream's text
	case r.method != "GET" && len(r.body) == 0:
		return fmt.Errorf("Empty %s request.", r.method) //nolint:staticcheck // upstream's text
	}
	return nil
}

// route reads a body and the second word of the path, which may be missing.
type route func(body []byte, second string, hasSecond bool) (parsed, error)

// routes are all requests of the release: method and first word.
var routes = map[string]route{
	"GET ":                     answer(describe),
	"GET version":              answer(version),
	"GET vm":                   answer(fullConfig),
	"GET machine-config":       answer(machineConfig),
	"GET mmds":                 answer(getMMDS),
	"GET balloon":              parseGetBalloon,
	"PUT actions":              parseAction,
	"PUT balloon":              simple(func(b firecracker.Balloon) act { return beforeStart(func(s *setup) error { return s.setBalloon(b) }) }),
	"PUT boot-source":          parseBootSource,
	"PUT cpu-config":           parseCPUConfig,
	"PUT drives":               parseDrive,
	"PUT entropy":              simple(func(e firecracker.Entropy) act { return beforeStart(func(s *setup) error { return s.setEntropy(e) }) }),
	"PUT logger":               simple(setLogger),
	"PUT machine-config":       parseMachineConfig,
	"PUT metrics":              simple(setMetrics),
	"PUT mmds":                 parsePutMMDS,
	"PUT network-interfaces":   parseNetwork,
	"PUT snapshot":             parseSnapshot,
	"PUT vsock":                parseVsock,
	"PATCH balloon":            parsePatchBalloon,
	"PATCH drives":             parsePatchDrive,
	"PATCH machine-config":     parseMachineUpdate,
	"PATCH mmds":               parsePatchMMDS,
	"PATCH network-interfaces": parsePatchNetwork,
	"PATCH vm":                 simple(func(v firecracker.VM) act { return setState(v.State) }),
}

func answer(run act) route {
	return func([]byte, string, bool) (parsed, error) { return parsed{run: run}, nil }
}

func read(body []byte, into any) (map[string]bool, error) {
	given, err := decode(body, into)
	if err != nil {
		return nil, fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err) //nolint:staticcheck // upstream's text
	}
	return given, nil
}

// simple is a request whose body says all.
func simple[T any](run func(T) act) route {
	return func(body []byte, _ string, _ bool) (parsed, error) {
		var value T
		if _, err := read(body, &value); err != nil {
			return parsed{}, err
		}
		return parsed{run: run(value)}, nil
	}
}

// checkResource holds the rule for the id in a path.
func checkResource(id string, given bool) error {
	if !given || id == "" {
		return errEmptyID
	}
	for _, c := range id {
		if c != '_' && !isAlphanumeric(c) {
			return errBadID
		}
	}
	return nil
}

func unrecognized(method, path string) error {
	return fmt.Errorf("Unrecognized %s request path `%s`.", method, path) //nolint:staticcheck // upstream's text
}

func parseGetBalloon(_ []byte, second string, hasSecond bool) (parsed, error) {
	switch {
	case !hasSecond:
		return parsed{run: balloonConfig}, nil
	case second == "statistics":
		return parsed{run: afterStart(balloonStats)}, nil
	}
	return parsed{}, unrecognized("GET", second)
}

func parsePatchBalloon(body []byte, second string, hasSecond bool) (parsed, error) {
	switch {
	case !hasSecond:
		return simple(patchBalloon)(body, second, hasSecond)
	case second == "statistics":
		return simple(patchBalloonStats)(body, second, hasSecond)
	}
	return parsed{}, unrecognized("PATCH", second)
}

func parseAction(body []byte, _ string, _ bool) (parsed, error) {
	var action firecracker.Action
	if _, err := read(body, &action); err != nil {
		return parsed{}, err
	}
	run := map[firecracker.ActionType]act{
		firecracker.ActionInstanceStart:  start,
		firecracker.ActionFlushMetrics:   afterStart(flushMetrics),
		firecracker.ActionSendCtrlAltDel: afterStart(sendCtrlAltDel),
	}[action.ActionType]
	return parsed{run: run}, nil
}

func parseBootSource(body []byte, _ string, _ bool) (parsed, error) {
	var b firecracker.BootSource
	given, err := read(body, &b)
	if err != nil {
		return parsed{}, err
	}
	initrd := given["initrd_path"] && !isNull(body, "initrd_path")
	return parsed{run: beforeStart(func(s *setup) error { return s.setBoot(b, initrd) })}, nil
}

// isNull tells a field that is null from one that is an empty string.
func isNull(body []byte, name string) bool {
	var fields map[string]json.RawMessage
	err := json.Unmarshal(body, &fields)
	return err != nil || string(fields[name]) == "null"
}

func parseCPUConfig(body []byte, _ string, _ bool) (parsed, error) {
	return parsed{run: beforeStart(putCPUConfig)}, nil
}

func parseDrive(body []byte, id string, hasID bool) (parsed, error) {
	if err := checkResource(id, hasID); err != nil {
		return parsed{}, err
	}
	var d firecracker.Drive
	given, err := read(body, &d)
	if err != nil {
		return parsed{}, err
	}
	if d.DriveID != id {
		return parsed{}, errOtherID
	}
	pathNamed := given["path_on_host"] && !isNull(body, "path_on_host")
	return parsed{run: beforeStart(func(s *setup) error { return s.putDrive(d, pathNamed) })}, nil
}

var errOtherID = errors.New("The id from the path does not match the id from the body!") //nolint:staticcheck // upstream's text

func parsePatchDrive(body []byte, id string, hasID bool) (parsed, error) {
	if err := checkResource(id, hasID); err != nil {
		return parsed{}, err
	}
	var u firecracker.DriveUpdate
	if _, err := read(body, &u); err != nil {
		return parsed{}, err
	}
	if u.DriveID != id {
		return parsed{}, errOtherID
	}
	return parsed{run: patchDrive(u)}, nil
}

func otherIDs(path, body string) error {
	return fmt.Errorf("The id from the path [%s] does not match the id from the body [%s]!", path, body) //nolint:staticcheck // upstream's text
}

func parseNetwork(body []byte, id string, hasID bool) (parsed, error) {
	if err := checkResource(id, hasID); err != nil {
		return parsed{}, err
	}
	var n firecracker.NetworkInterface
	if _, err := read(body, &n); err != nil {
		return parsed{}, err
	}
	if n.IfaceID != id {
		return parsed{}, otherIDs(id, n.IfaceID)
	}
	return parsed{run: beforeStart(func(s *setup) error { return s.putNetwork(n) })}, nil
}

func parsePatchNetwork(body []byte, id string, hasID bool) (parsed, error) {
	if err := checkResource(id, hasID); err != nil {
		return parsed{}, err
	}
	var u firecracker.NetworkInterfaceUpdate
	if _, err := read(body, &u); err != nil {
		return parsed{}, err
	}
	if u.IfaceID != id {
		return parsed{}, otherIDs(id, u.IfaceID)
	}
	return parsed{run: patchNetwork(u)}, nil
}

func parseMachineConfig(body []byte, _ string, _ bool) (parsed, error) {
	var m firecracker.MachineConfig
	if _, err := read(body, &m); err != nil {
		return parsed{}, err
	}
	return updateMachine(updateOf(m)), nil
}

func parseMachineUpdate(body []byte, _ string, _ bool) (parsed, error) {
	var u machineUpdate
	if _, err := read(body, &u); err != nil {
		return parsed{}, err
	}
	if u.empty() {
		return parsed{}, errors.New("Empty PATCH request.") //nolint:staticcheck // upstream's text
	}
	return updateMachine(u), nil
}

func updateMachine(u machineUpdate) parsed {
	return parsed{
		run:        beforeStart(func(s *setup) error { return s.updateMachine(u) }),
		deprecated: u.CPUTemplate != nil,
	}
}

func parseVsock(body []byte, _ string, _ bool) (parsed, error) {
	var v firecracker.Vsock
	if _, err := read(body, &v); err != nil {
		return parsed{}, err
	}
	return parsed{
		run:        beforeStart(func(s *setup) error { return s.setVsock(v) }),
		deprecated: v.VsockID != "",
	}, nil
}

func parsePutMMDS(body []byte, second string, hasSecond bool) (parsed, error) {
	switch {
	case !hasSecond:
		value, err := readAny(body)
		return parsed{run: putMMDS(value)}, err
	case second == "config":
		return parseMMDSConfig(body)
	}
	return parsed{}, unrecognized("PUT", second)
}

func parseMMDSConfig(body []byte) (parsed, error) {
	var c firecracker.MMDSConfig
	if _, err := read(body, &c); err != nil {
		return parsed{}, err
	}
	return parsed{
		run:        beforeStart(func(s *setup) error { return s.setMMDS(c) }),
		deprecated: c.Version != "V2",
	}, nil
}

func parsePatchMMDS(body []byte, _ string, _ bool) (parsed, error) {
	value, err := readAny(body)
	return parsed{run: patchMMDS(value)}, err
}

func readAny(body []byte) (any, error) {
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return nil, fmt.Errorf("An error occurred when deserializing the json body of a request: %w.", err) //nolint:staticcheck // upstream's text
	}
	return value, nil
}

func parseSnapshot(body []byte, second string, hasSecond bool) (parsed, error) {
	switch {
	case !hasSecond:
		return parsed{}, errors.New("Missing snapshot operation type.") //nolint:staticcheck // upstream's text
	case second == "create":
		return simple(func(snapshotCreate) act { return afterStart(createSnapshot) })(body, "", false)
	case second == "load":
		return parseSnapshotLoad(body)
	}
	return parsed{}, unknownRequest("PUT", "/snapshot/"+second)
}

func parseSnapshotLoad(body []byte) (parsed, error) {
	var l snapshotLoad
	if _, err := read(body, &l); err != nil {
		return parsed{}, err
	}
	both, neither := l.MemBackend != nil && l.MemFilePath != "", l.MemBackend == nil && l.MemFilePath == ""
	const prefix = "An error occurred when deserializing the json body of a request: "
	switch {
	case both:
		return parsed{}, errors.New(prefix + "too many fields: either `mem_backend` or `mem_file_path` exclusively is required.") //nolint:staticcheck // upstream's text
	case neither:
		return parsed{}, errors.New(prefix + "missing field: either `mem_backend` or `mem_file_path` is required.") //nolint:staticcheck // upstream's text
	}
	return parsed{run: loadSnapshot, deprecated: l.MemFilePath != ""}, nil
}
