//go:build nested

package nested

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// report makes subtests of what a test program prints with
// -test.v=test2json.
type report struct {
	t      *testing.T
	passed int

	output map[string]*bytes.Buffer // of tests that have not ended
	failed map[string]bool          // tests that have a subtest that failed
	parent map[string]bool          // tests that have subtests
}

func newReport(t *testing.T) *report {
	return &report{t: t, output: map[string]*bytes.Buffer{}, failed: map[string]bool{}, parent: map[string]bool{}}
}

// event is what go tool test2json prints for each thing that happens.
type event struct {
	Action  string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// of reports the output that run produces, as it comes, until run is over.
func (r *report) of(run func(out io.Writer)) {
	cmd := exec.Command("go", "tool", "test2json", "-t")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatalf("cannot run go tool test2json: %v", err)
	}
	go func() {
		defer in.Close()
		run(in)
	}()
	for decoder := json.NewDecoder(out); ; {
		var e event
		if err := decoder.Decode(&e); err != nil {
			break
		}
		r.take(e)
	}
	if err := cmd.Wait(); err != nil {
		r.t.Errorf("go tool test2json: %v", err)
	}
}

func (r *report) take(e event) {
	switch e.Action {
	case "output":
		if e.Test == "" {
			r.t.Log(strings.TrimRight(e.Output, "\n"))
			return
		}
		r.said(e.Test).WriteString(e.Output)
	case "run":
		if above, _, nested := cutLast(e.Test); nested {
			r.parent[above] = true
		}
	case "pass", "fail", "skip":
		if e.Test != "" {
			r.ended(e)
		}
	}
}

// unended is what the tests have printed that have begun and not ended.
func (r *report) unended() string {
	var all strings.Builder
	for _, test := range slices.Sorted(maps.Keys(r.output)) {
		fmt.Fprintf(&all, "%s has not ended:\n%s\n", test, r.quote(test))
	}
	return all.String()
}

func (r *report) said(test string) *bytes.Buffer {
	if r.output[test] == nil {
		r.output[test] = &bytes.Buffer{}
	}
	return r.output[test]
}

// quoted is how much of a failed test's output is shown, from its end.
const quoted = 16 << 10

// quote is the end of what a test printed, without what is no text.
func (r *report) quote(test string) string {
	said := r.said(test).Bytes()
	return strings.ToValidUTF8(string(said[max(0, len(said)-quoted):]), "?")
}

// ended makes the subtest. A test that has subtests itself only counts when
// it has failed and none of them has.
func (r *report) ended(e event) {
	above, _, nested := cutLast(e.Test)
	if nested && e.Action == "fail" {
		r.failed[above] = true
	}
	defer delete(r.output, e.Test)
	if r.parent[e.Test] && (e.Action == "pass" || r.failed[e.Test]) {
		return
	}
	r.t.Run(e.Test, func(t *testing.T) {
		took := time.Duration(e.Elapsed * float64(time.Second))
		switch e.Action {
		case "pass":
			r.passed++
			t.Logf("took %v there", took)
		case "skip":
			t.Errorf("it was skipped there, after %v\n%s", took, r.quote(e.Test))
		default:
			t.Errorf("it failed there, after %v\n%s", took, r.quote(e.Test))
		}
	})
}

func cutLast(test string) (above, name string, nested bool) {
	i := strings.LastIndex(test, "/")
	if i < 0 {
		return "", test, false
	}
	return test[:i], test[i+1:], true
}
