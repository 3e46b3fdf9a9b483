package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
)

// tally is how tests went. Only the innermost tests count: one that holds
// others fails by itself only when none of them did.
type tally struct {
	passed   int
	failures []failure
}

// failure is a test that failed, or what kept tests from running.
type failure struct {
	what  string
	words string // the last ones of the test; "" where it had none
}

func (t *tally) fail(what string) { t.failures = append(t.failures, failure{what: what}) }

func (t *tally) add(other tally) {
	t.passed += other.passed
	t.failures = append(t.failures, other.failures...)
}

// String is the last page of a run: what failed, with the last words of each, and
// the count.
func (t tally) String() string {
	var page strings.Builder
	for _, f := range t.failures {
		fmt.Fprintf(&page, "FAILED: %s\n", f.what)
		for line := range strings.Lines(f.words) {
			page.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
	}
	fmt.Fprintf(&page, "%d passed, %d failed\n", t.passed, len(t.failures))
	return page.String()
}

// event is a line of `go test -json`, see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build output
	Test       string
	Output     string
	Elapsed    float64
}

// reader turns events into a tally and shows what a person wants to see.
type reader struct {
	show    io.Writer
	loud    bool
	results map[string]event    // by package and test: the event that ended it
	output  map[string][]string // by package and test, until it has ended
	words   map[string]string   // by package and test: the last of what it said and failed
}

func newReader(show io.Writer, loud bool) *reader {
	return &reader{show: show, loud: loud, results: map[string]event{}, output: map[string][]string{}, words: map[string]string{}}
}

// read takes the events of one `go test -json`.
func (r *reader) read(events io.Reader) error {
	for decoder := json.NewDecoder(events); ; {
		var e event
		err := decoder.Decode(&e)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read the output of go test: %w", err)
		}
		r.take(e)
	}
}

func (r *reader) take(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.output[key] = append(r.output[key], e.Output)
	case "build-output":
		fmt.Fprint(r.show, e.Output)
	case "pass":
		r.results[key] = e
		r.sayPassed(e)
		delete(r.output, key)
	case "fail", "skip":
		r.results[key] = e
		if e.Action == "fail" || e.Test != "" {
			fmt.Fprint(r.show, strings.Join(r.output[key], ""))
		}
		r.words[key] = lastWords(r.output[key])
		delete(r.output, key)
		if e.Action == "fail" && e.Test == "" {
			r.sayUnended(e.Package)
		}
	}
}

// The end of what a failed test said, as much as a person reads who sees only the
// last page of a long run.
const (
	wordsLines = 15
	wordsBytes = 1500
)

func lastWords(output []string) string {
	lines := strings.SplitAfter(strings.TrimRight(strings.Join(output, ""), "\n"), "\n")
	words := strings.Join(lines[max(0, len(lines)-wordsLines):], "")
	return strings.ToValidUTF8(words[max(0, len(words)-wordsBytes):], "")
}

// sayUnended shows what the tests said that had not ended when their package
// did: where it hung is in the output of one of them.
func (r *reader) sayUnended(pkg string) {
	var said []string
	for _, key := range slices.Sorted(maps.Keys(r.output)) {
		if strings.HasPrefix(key, pkg+" ") {
			said = append(said, r.output[key]...)
			delete(r.output, key)
		}
	}
	fmt.Fprint(r.show, strings.Join(said, ""))
	if len(said) > 0 {
		r.words[pkg+" "] = lastWords(said)
	}
}

// sayPassed names a test of a loud suite, and what it said when that is all
// that it was for.
func (r *reader) sayPassed(e event) {
	if !r.loud || e.Test == "" {
		return
	}
	fmt.Fprintf(r.show, "ok    %s (%.1fs)\n", e.Test, e.Elapsed)
	if strings.HasSuffix(e.Test, "/version") {
		for _, line := range r.output[e.Package+" "+e.Test] {
			if !strings.HasPrefix(strings.TrimSpace(line), "---") && !strings.HasPrefix(line, "===") {
				fmt.Fprint(r.show, line)
			}
		}
	}
}

// tally counts the innermost tests, and packages that failed without one.
func (r *reader) tally() tally {
	var t tally
	for _, key := range r.keys() {
		e := r.results[key]
		switch {
		case e.Test == "" && e.Action == "fail" && !r.failedWithin(e.Package+" "):
			t.failures = append(t.failures, failure{what: e.Package, words: r.words[key]})
		case e.Test == "" || r.holdsOthers(key) && (e.Action != "fail" || r.failedWithin(key+"/")):
		case e.Action == "pass":
			t.passed++
		case e.Action == "skip":
			t.fail(key + " (skipped)")
		default:
			t.failures = append(t.failures, failure{what: key, words: r.words[key]})
		}
	}
	return t
}

func (r *reader) keys() []string {
	keys := make([]string, 0, len(r.results))
	for key := range r.results {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func (r *reader) holdsOthers(key string) bool {
	for other := range r.results {
		if strings.HasPrefix(other, key+"/") {
			return true
		}
	}
	return false
}

// failedWithin tells whether a test failed or was skipped whose key begins so.
func (r *reader) failedWithin(prefix string) bool {
	for key, e := range r.results {
		if strings.HasPrefix(key, prefix) && e.Test != "" && (e.Action == "fail" || e.Action == "skip") {
			return true
		}
	}
	return false
}
