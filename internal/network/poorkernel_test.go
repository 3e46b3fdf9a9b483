//go:build hosttest && poorkernel

package network

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/banger-vm/banger/api"
)

// TestAKernelThatCannotCount runs where there is no nft_connlimit: guests have
// all other rules, and it is told.
func TestAKernelThatCannotCount(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	l := newLab(t)
	logged, err := os.Create(filepath.Join(t.TempDir(), "log"))
	must(t, err)
	defer logged.Close()
	l.log = slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), logged), nil))
	l.finds("connection limits", api.LevelWarning, "this kernel cannot limit how many connections guests have")

	n := l.network()
	g := l.guests(n, 1)[0]
	g.works()
	if len(l.rulesSaying(tooMany)) > 0 {
		t.Error("connections are counted, so the test shows nothing")
	}
	if _, err := g.dial(g.ns, metadata, 80, shortly); err == nil {
		t.Error("a guest reaches the metadata")
	}
	l.take(n, "no metadata")
	g.reaches(metadata, 80)
	text, err := os.ReadFile(logged.Name())
	must(t, err)
	if !strings.Contains(string(text), "this kernel cannot limit how many connections a guest has") {
		t.Errorf("it is not told:\n%s", text)
	}
}
