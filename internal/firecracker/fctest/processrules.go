package fctest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker"
)

func runProcessRules(t *testing.T, target Target) {
	for _, r := range exitRules {
		t.Run(r.name, func(t *testing.T) { r.check(t, target) })
	}
	t.Run("a deprecated field is told in a header", func(t *testing.T) { checkDeprecation(t, start(t, target)) })
	t.Run("a body larger than 51200 bytes is not read", func(t *testing.T) { checkBodyLimit(t, start(t, target)) })
	t.Run("the limit of a body is a flag", func(t *testing.T) {
		checkRaisedLimit(t, start(t, target, "--http-api-max-payload-size", "60000"))
	})
	t.Run("the eleventh connection is turned away", func(t *testing.T) { checkConnections(t, start(t, target)) })
	t.Run("sockets stay when the VMM is killed", func(t *testing.T) { checkSocketsStay(t, start(t, target)) })
	t.Run("only GET, PUT and PATCH are known", func(t *testing.T) { checkMethods(t, start(t, target)) })
	t.Run("the log begins with the release", func(t *testing.T) { checkLog(t, start(t, target)) })
}

// exitRule is a command line and how the program ends on it.
type exitRule struct {
	name   string
	args   []string
	status int
	// says is a part of what it prints to stdout and stderr.
	says string
	// until is the first release without the rule.
	until string
}

var exitRules = []exitRule{
	{name: "--version is told and done", args: []string{"--version", "--foo"}, status: 0, says: "Firecracker v"},
	{name: "--help is told and done", args: []string{"--help"}, status: 0, says: "--api-sock"},
	{name: "an unknown flag ends with 153", args: []string{"--foo"}, status: 153, says: "Found argument 'foo' which wasn't expected"},
	{name: "a stray word ends with 153", args: []string{"foo"}, status: 153, says: "Found argument 'foo' which wasn't expected"},
	{name: "there is no --flag=value", args: []string{"--api-sock=a.sock"}, status: 153, says: "Found argument 'api-sock=a.sock' which wasn't expected"},
	{name: "a flag without its value ends with 153", args: []string{"--id"}, status: 153, says: "The argument 'id' requires a value"},
	{name: "a flag given twice ends with 153", args: []string{"--id", "a", "--id", "b"}, status: 153, says: "The argument 'id' was provided more than once."},
	{name: "--no-api needs --config-file", args: []string{"--no-api"}, status: 153, says: "Argument 'config-file' required, but not found."},
	{name: "two seccomp flags end with 153", args: []string{"--no-seccomp", "--seccomp-filter", "x"}, status: 153, says: "cannot be used together"},
	{name: "an unknown log level ends with 152", args: []string{"--level", "Foo", "--api-sock", "a.sock"}, status: 152, says: "Invalid value for logger level"},
	{name: "a log that is not there ends with 1", args: []string{"--log-path", "nope", "--api-sock", "a.sock"}, status: 1, says: "Failed to open target file: No such file or directory (os error 2)", until: "1.14"},
	{name: "metrics that are not there end with 1", args: []string{"--metrics-path", "nope", "--api-sock", "a.sock"}, status: 1, says: "Could not initialize metrics", until: "1.14"},
	{name: "a socket that is there ends with 1", args: []string{"--api-sock", "disk1"}, status: 1, says: "Failed to open the API socket at: disk1. Check that it is not already used."},
	{name: "a socket that cannot be ends with 1", args: []string{"--api-sock", "nodir/a.sock"}, status: 1, says: "No such file or directory (os error 2)"},
	{name: "an id with an underscore aborts", args: []string{"--id", "a_b", "--api-sock", "a.sock"}, status: 134, says: "Invalid instance ID: InvalidChar('_', 1)"},
	{name: "an empty id aborts", args: []string{"--id", "", "--api-sock", "a.sock"}, status: 134, says: "Invalid instance ID: InvalidLen(0, 1, 64)"},
	{name: "a configuration file that is not there aborts", args: []string{"--config-file", "nope", "--no-api"}, status: 134, says: "Unable to open or read from the configuration file"},
	{name: "a configuration without drives ends with 1", args: []string{"--config-file", "empty.json", "--no-api"}, status: 1, says: "missing field `drives`"},
	{name: "a configuration without its kernel ends with 1", args: []string{"--config-file", "nokernel.json", "--api-sock", "a.sock"}, status: 1, says: "The kernel file cannot be opened"},
}

func (r exitRule) check(t *testing.T, target Target) {
	if r.until != "" && releaseOf(t, target).AtLeast(mustVersion(r.until)) {
		return
	}
	dir := workDir(t)
	for name, text := range map[string]string{
		"empty.json":    `{}`,
		"nokernel.json": `{"boot-source":{"kernel_image_path":"nope"},"drives":[]}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	said, status := runToEnd(t, target, dir, r.args...)
	if status != r.status {
		t.Errorf("it ended with %d, expected %d, and said:\n%s", status, r.status, said)
	}
	if !strings.Contains(said, r.says) {
		t.Errorf("it said:\n%s\nexpected in it: %s", said, r.says)
	}
}

func releaseOf(t *testing.T, target Target) firecracker.Version {
	t.Helper()
	said, _ := runToEnd(t, target, t.TempDir(), "--version")
	line, _, _ := strings.Cut(said, "\n")
	return mustVersion(strings.TrimPrefix(line, "Firecracker "))
}

func runToEnd(t *testing.T, target Target, dir string, args ...string) (said string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	bin, err := filepath.Abs(target.Bin)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Dir = dir
	output, err := cmd.CombinedOutput()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("it did not end; it said:\n%s", output)
	}
	return string(output), exitStatus(cmd.ProcessState)
}

func checkDeprecation(t *testing.T, v *vmm) {
	if r := v.ask("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock","vsock_id":"x"}`); r.status != http.StatusNoContent || !r.deprecated {
		t.Errorf("PUT /vsock with vsock_id: status %d, Deprecation %t", r.status, r.deprecated)
	}
	if r := v.ask("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`); r.status != http.StatusNoContent || r.deprecated {
		t.Errorf("PUT /vsock without vsock_id: status %d, Deprecation %t", r.status, r.deprecated)
	}
}

func (v *vmm) dial() net.Conn {
	v.t.Helper()
	conn, err := net.Dial("unix", filepath.Join(v.dir, firecracker.APISocket))
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { conn.Close() })
	return conn
}

// exchange writes a request by hand and returns the beginning of the answer.
func exchange(t *testing.T, conn net.Conn, request string) string {
	t.Helper()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	return readSome(t, conn)
}

func readSome(t *testing.T, conn net.Conn) string {
	t.Helper()
	answer := make([]byte, 4096)
	n, err := conn.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer[:n])
}

func checkBodyLimit(t *testing.T, v *vmm) {
	answer := exchange(t, v.dial(), "PUT /mmds HTTP/1.1\r\nHost: x\r\nContent-Length: 51201\r\n\r\n")
	for _, part := range []string{"HTTP/1.1 400", "Request payload with size 51201 is larger than the limit of 51200 allowed by server."} {
		if !strings.Contains(answer, part) {
			t.Errorf("the answer is %q, expected in it: %s", answer, part)
		}
	}
	v.do(ok("PUT", "/mmds", `{}`+strings.Repeat(" ", 51198)))
}

func checkRaisedLimit(t *testing.T, v *vmm) {
	v.do(ok("PUT", "/mmds", `{}`+strings.Repeat(" ", 59998)))
}

func checkConnections(t *testing.T, v *vmm) {
	v.http.CloseIdleConnections()
	v.process.Client().Close()
	var first net.Conn
	for range 10 {
		// Each is asked something, so that it is known to be taken.
		conn := v.dial()
		if answer := exchange(t, conn, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200") {
			t.Fatalf("one of ten connections is answered %q", answer)
		}
		first = conn
	}
	if answer := readSome(t, v.dial()); !strings.HasPrefix(answer, "HTTP/1.1 503") {
		t.Errorf("the eleventh connection is answered %q", answer)
	}
	if answer := exchange(t, first, "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200") {
		t.Errorf("after that one of the ten is answered %q", answer)
	}
}

func checkSocketsStay(t *testing.T, v *vmm) {
	v.do(ok("PUT", "/vsock", `{"guest_cid":3,"uds_path":"v.sock"}`))
	ctx, cancel := context.WithTimeout(t.Context(), quick)
	defer cancel()
	if err := v.process.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"api.sock", "v.sock"} {
		if _, err := os.Lstat(filepath.Join(v.dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func checkMethods(t *testing.T, v *vmm) {
	methods := []string{"POST", "HEAD"}
	if !v.version.AtLeast(mustVersion("1.16")) {
		methods = append(methods, "DELETE")
	}
	for _, method := range methods {
		answer := exchange(t, v.dial(), method+" / HTTP/1.1\r\nHost: x\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 400") {
			t.Errorf("%s is answered %q", method, answer)
		}
	}
}

func checkLog(t *testing.T, v *vmm) {
	text := v.process.LastWords()
	for _, part := range []string{"[conformance-1:main] Running Firecracker v" + v.version.String(), "Listening on API socket (\"api.sock\")."} {
		if !strings.Contains(text, part) {
			t.Errorf("the log is:\n%s\nexpected in it: %s", text, part)
		}
	}
}
