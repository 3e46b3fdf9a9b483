//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/banger-vm/banger/internal/testenv"
)

// nodePrograms are the directories of the tests' programs for node.
var nodePrograms = []string{"mcpclient", "acpclient"}

// fetchNodeModules gets what the tests' programs for node need while there is
// still an internet, and puts it where they find it.
func fetchNodeModules() error {
	if testenv.Entered() {
		return nil
	}
	var paths []string
	for _, program := range nodePrograms {
		fetch := exec.Command("../../scripts/fetch-node.sh", program)
		fetch.Stderr = os.Stderr
		path, err := fetch.Output()
		if err != nil {
			return fmt.Errorf("cannot fetch what %s needs: %w", program, err)
		}
		paths = append(paths, strings.TrimSpace(string(path)))
	}
	return os.Setenv("NODE_PATH", strings.Join(paths, ":"))
}

// examples builds the client package's own tests, which run its examples.
func buildExamples(ts *testscript.TestScript, neg bool, args []string) {
	program := ts.MkAbs("examples.test")
	cmd := exec.Command("go", "test", "-trimpath", "-c", "-o", program, "../../client")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("cannot build the examples: %v\n%s", err, out)
	}
}

// example NAME PATTERN runs one example, whose whole output must match.
func runExample(ts *testscript.TestScript, neg bool, args []string) {
	cmd := command(ts, []string{ts.MkAbs("examples.test")})
	cmd.Env = append(cmd.Env, "BANGER_CLIENT_EXAMPLE="+args[0])
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("example %s: %v\n%s", args[0], err, out)
	}
	if !regexp.MustCompile(`\A` + args[1] + `\n\z`).Match(out) {
		ts.Fatalf("example %s printed %q, want %q", args[0], out, args[1])
	}
}
