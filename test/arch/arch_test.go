package arch

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/banger-vm/banger"

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Name       string
	Doc        string
	Imports    []string
	GoFiles    []string
}

// local is the path within the module, "" for the outside.
func local(importPath string) string {
	rest, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return rest
}

func (p pkg) locals() []string {
	var locals []string
	for _, i := range p.Imports {
		if l := local(i); l != "" {
			locals = append(locals, l)
		}
	}
	return locals
}

func packages(t *testing.T) []pkg {
	t.Helper()
	list := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports,GoFiles", module+"/...")
	list.Dir = "../.."
	out, err := list.Output()
	if err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) {
			t.Fatalf("go list: %s", failed.Stderr)
		}
		t.Fatal(err)
	}
	var all []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// ground is what every package may stand on: no host, no VM, no wire but the
// kinds of errors.
var ground = []string{"api", "internal/atomicfile", "internal/duplex", "internal/filelock", "internal/proc", "internal/progress", "internal/spelling", "internal/undo"}

// rule is for the packages that who matches.
type rule struct {
	who  string
	may  []string
	bare bool // not even ground
	why  string
}

// rules say what a package may import beside ground and its own subpackages.
// A name that ends in /... stands for a package and all below it. The first
// rule that fits counts.
var rules = []rule{
	{who: "api", bare: true, why: "the wire is for any program: standard library only"},
	{who: "client", may: []string{"api", "internal/guest/proto", "internal/guest/filetree", "internal/filelock"}, bare: true, why: "the public client knows the wire and the frames on it"},
	{who: "internal/cli/ui", may: []string{"api"}, bare: true},
	{who: "internal/cli/mcptools", may: []string{"api", "client"}, bare: true, why: "one more client"},
	{who: "internal/cli", may: []string{"api", "client", "internal/cli/ui", "internal/cli/mcptools", "internal/config", "internal/workspace", "internal/buildcontext", "internal/registryauth", "internal/filelock"}, bare: true, why: "the CLI does nothing itself: cli → client → api; the user's own files are read by workspace, buildcontext and registryauth"},
	{who: "internal/testdaemon", may: []string{"api", "internal/guest/proto", "internal/guest/filetree"}, bare: true, why: "clients are tested against the wire, not the daemon's idea of it"},

	{who: "internal/daemon/web", may: []string{"api", "client"}, bare: true, why: "the web UI is one more client"},
	{who: "internal/daemon", may: []string{"internal/daemon/op", "internal/vm", "internal/session", "internal/image", "internal/image/catalog", "internal/kernel",
		"internal/guest/host", "internal/guest/proto"}},
	{who: "internal/vm", may: []string{"internal/image", "internal/kernel", "internal/disk", "internal/network", "internal/firecracker",
		"internal/hostclock", "internal/oom", "internal/guest/host", "internal/guest/proto", "internal/vmm", "internal/credential", "internal/forward"}, why: "vm is the only place that knows two of the leaves"},
	{who: "internal/session", may: []string{"internal/guest/host", "internal/guest/proto"}},
	{who: "internal/workspace", may: []string{"internal/workspace/wire"}, why: "it runs as the user, beside the CLI, and knows a connection only"},

	{who: "internal/image/oci", may: []string{"internal/download", "internal/registryauth"}},
	{who: "internal/image/catalog", may: []string{"internal/download"}},
	{who: "internal/debian", may: []string{"internal/cachedir", "internal/download"}},
	{who: "internal/image", may: []string{"internal/cachedir", "internal/debian"}},
	{who: "internal/kernel", may: []string{"internal/debian"}},
	{who: "internal/guest/filetree", may: []string{"internal/guest/proto", "internal/filelock"}, bare: true, why: "both ends of a copy are made of it, the client's too"},
	{who: "internal/guest/host", may: []string{"internal/guest/proto"}},
	{who: "internal/guest/agent", may: []string{"internal/guest/proto", "internal/guest/filetree", "internal/guest/serialmux", "internal/guest/timerslack", "internal/guest/workspace"}},
	{who: "internal/guest/workspace", may: []string{"internal/workspace/wire"}},
	{who: "internal/guest/init", may: []string{"internal/guest/proto", "internal/guest/timerslack", "internal/disk/dmsnapshot"}},
	{who: "internal/fcqemu", may: []string{"internal/firecracker", "internal/firecracker/fcserver", "internal/guest/proto",
		"internal/guest/serialmux", "internal/vmm"}},
	{who: "internal/firecracker/fcserver", may: []string{"internal/firecracker"}},
	{who: "internal/firecracker/fctest/...", may: []string{"internal/firecracker", "internal/firecracker/fcserver", "internal/firecracker/fctest/...",
		"internal/guest/proto", "internal/guest/serialmux"}},
	{who: "internal/network/firewall", may: []string{"internal/network/ruleset"}},
	{who: "internal/doctor", may: []string{"internal/config", "internal/vmm"}},

	{who: "cmd/banger", may: []string{"internal/cli"}, bare: true},
	{who: "cmd/bangerd", may: []string{"..."}, why: "the one place where everything is wired"},
	{who: "cmd/fcqemu", may: []string{"internal/fcqemu", "internal/firecracker/fcserver"}},
	{who: "cmd/banger-init", may: []string{"internal/guest/init"}},
	{who: "cmd/banger-vsock-agent", may: []string{"internal/guest/agent"}},
	{who: "test/...", may: []string{"..."}},
	// All others are leaves.
	{who: "..."},
}

func TestArrowsPointDown(t *testing.T) {
	for _, p := range packages(t) {
		me := local(p.ImportPath)
		rule := ruleFor(me)
		for _, other := range p.locals() {
			if strings.HasPrefix(other, me+"/") || slices.ContainsFunc(rule.may, func(m string) bool { return matches(m, other) }) {
				continue
			}
			if !rule.bare && slices.Contains(ground, other) {
				continue
			}
			t.Errorf("%s imports %s, which the map does not allow (rule %q%s)", me, other, rule.who, because(rule.why))
		}
	}
}

func ruleFor(name string) rule {
	return rules[slices.IndexFunc(rules, func(r rule) bool { return matches(r.who, name) })]
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func matches(pattern, name string) bool {
	if pattern == "..." {
		return true
	}
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return name == tree || strings.HasPrefix(name, tree+"/")
	}
	return pattern == name
}

func TestOnlyCommandsImportTheQEMUMachineAndTheDaemon(t *testing.T) {
	for _, p := range packages(t) {
		for _, other := range p.locals() {
			for _, owned := range []struct{ pkg, by string }{
				{"internal/fcqemu", "cmd/fcqemu"},
				{"internal/daemon", "cmd/bangerd"},
				{"internal/cli", "cmd/banger"},
			} {
				if other == owned.pkg && local(p.ImportPath) != owned.by {
					t.Errorf("%s imports %s, which is for %s alone", p.ImportPath, owned.pkg, owned.by)
				}
			}
		}
	}
}

func TestTheWireIsStandardLibraryOnly(t *testing.T) {
	for _, p := range packages(t) {
		if local(p.ImportPath) != "api" {
			continue
		}
		for _, i := range p.Imports {
			if strings.Contains(i, ".") {
				t.Errorf("api imports %s", i)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // only tests
		}
		if begins := beginnings(p); !slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(p.Doc, b) }) {
			t.Errorf("%s: its comment begins with none of %q: %q", p.ImportPath, begins, p.Doc)
		}
	}
}

// beginnings are Go's customs: "Package x", "Command x" or the program's name
// as a sentence begins.
func beginnings(p pkg) []string {
	if p.Name != "main" {
		return []string{"Package " + p.Name + " "}
	}
	program := path.Base(p.ImportPath)
	return []string{"Command " + program + " ", strings.ToUpper(program[:1]) + program[1:] + " "}
}

func TestNoPackageIsADrawer(t *testing.T) {
	drawers := []string{"util", "utils", "common", "helper", "helpers", "misc", "types", "models", "base", "shared", "lib"}
	for _, p := range packages(t) {
		for _, part := range strings.Split(local(p.ImportPath), "/") {
			if slices.Contains(drawers, part) {
				t.Errorf("%s: %q says nothing of what is inside", p.ImportPath, part)
			}
		}
	}
}
