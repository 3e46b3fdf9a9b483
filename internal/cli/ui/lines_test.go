package ui_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/cli/ui"
)

// told takes the steps of an operation.
type told []string

func (t *told) Step(e api.StepEvent) { *t = append(*t, e.Name+": "+e.Detail) }
func (t *told) Done()                {}

func TestLines(t *testing.T) {
	var got told
	w := ui.Lines("docker", &got)
	for _, piece := range []string{"one\ntw", "o", "\r\n\n", "three\nfour\n", strings.Repeat("x", 5000), "\n"} {
		if n, err := fmt.Fprint(w, piece); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	want := told{"docker: one", "docker: two", "docker: three", "docker: four", "docker: " + strings.Repeat("x", 4096), "docker: " + strings.Repeat("x", 904)}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
