package fcserver

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/firecracker"
)

// The rules of the API are tested from outside, by package fctest, on this
// server and on Firecracker alike. Here are the parsers behind it.

func TestMergePatchIsRFC7396(t *testing.T) {
	// The RFC's own table, appendix A.
	for _, test := range []struct{ target, patch, result string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`},
		{`{"a":"foo"}`, `null`, `null`},
		{`{"a":"foo"}`, `"bar"`, `"bar"`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`},
		{`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		target := value(t, test.target)
		if got, want := mergePatch(target, value(t, test.patch)), value(t, test.result); !reflect.DeepEqual(got, want) {
			t.Errorf("%s patched by %s is %v, not %s", test.target, test.patch, got, test.result)
		}
		if !reflect.DeepEqual(target, value(t, test.target)) {
			t.Errorf("%s was changed itself by %s", test.target, test.patch)
		}
	}
}

func value(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestTheRootDriveIsNamedOnTheCommandLine(t *testing.T) {
	for want, d := range map[string]Drive{
		" root=/dev/vda rw":      {},
		" root=/dev/vda ro":      {ReadOnly: true},
		" root=PARTUUID=1-01 ro": {ReadOnly: true, PartUUID: "1-01"},
	} {
		if got := rootArguments(d); got != want {
			t.Errorf("%+v is %q, not %q", d, got, want)
		}
	}
}

func TestUnsupportedNamesTheField(t *testing.T) {
	err := prefixed("Start microvm error", &Unsupported{Field: "huge_pages", Reason: "there are none"})
	if text := err.Error(); text != "The requested operation is not supported: `huge_pages`: there are none" {
		t.Errorf("the text is %q", text)
	}
	if _, ok := errors.AsType[*Unsupported](err); !ok {
		t.Error("what it was is lost")
	}
}

// FuzzConnectLine: only the word and a port that fits is a request.
func FuzzConnectLine(f *testing.F) {
	for _, seed := range []string{"CONNECT 1\n", "connect 4294967295\n", "CONNECT\n", "CONNECT -1\n", "CONNECTED 5\n", "CONNECT 5 6\n", "\xff\xfe"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, err := parseConnect(line); err != nil {
			return
		}
		words := strings.Fields(string(line))
		if !strings.EqualFold(words[0], "CONNECT") || strings.Trim(words[1], "0123456789") != "" {
			t.Errorf("%q passed for a request", line)
		}
	})
}

// FuzzBodies: no body crashes the server, and one that is taken as a drive
// has what a drive must have.
func FuzzBodies(f *testing.F) {
	for _, seed := range []string{
		`{"drive_id":"a","is_root_device":false,"path_on_host":"x"}`, `{"drive_id":"a","is_root_device":null}`, `{`, `[]`, `null`,
		`{"drive_id":"a","is_root_device":true,"rate_limiter":{"ops":{"size":1,"refill_time":1e3}}}`, `{"a":`, "{\n\"x\":1}", `{"drive_id":"\ud800"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var d firecracker.Drive
		given, err := decode(body, &d)
		if err == nil && (!given["drive_id"] || !given["is_root_device"]) {
			t.Errorf("%q passed for a drive", body)
		}
		for _, into := range []any{new(firecracker.MachineConfig), new(snapshotLoad), new(configFile), new(firecracker.Logger)} {
			_, _ = decode(body, into)
		}
	})
}
