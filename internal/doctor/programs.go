package doctor

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/internal/vmm"
)

// program is one that banger calls, and the package that brings it, by package
// manager.
type program struct {
	name     string
	flag     string // makes it tell its version
	need     api.Level
	why      string
	packages map[string]string
}

var (
	qemu = program{"qemu-system-x86_64", "--version", api.LevelError, "fcqemu runs VMs with it", map[string]string{
		"apt-get": "qemu-system-x86", "dnf": "qemu-system-x86-core", "pacman": "qemu-system-x86", "zypper": "qemu-x86", "apk": "qemu-system-x86_64"}}
	mke2fs = program{"mke2fs", "-V", api.LevelError, "images and the modules drive are made with it", map[string]string{
		"apt-get": "e2fsprogs", "dnf": "e2fsprogs", "pacman": "e2fsprogs", "zypper": "e2fsprogs", "apk": "e2fsprogs"}}
	ssh = program{"ssh", "-V", api.LevelWarning, "shells and `vm ssh` need it; commands do not", map[string]string{
		"apt-get": "openssh-client", "dnf": "openssh-clients", "pacman": "openssh", "zypper": "openssh-clients", "apk": "openssh-client-default"}}
	git = program{"git", "--version", api.LevelWarning, "repositories go into a VM with it (`vm run ./repo`)", map[string]string{
		"apt-get": "git", "dnf": "git", "pacman": "git", "zypper": "git", "apk": "git"}}
)

// install is how each package manager is told to.
var install = []struct{ manager, command string }{
	{"apt-get", "apt-get install --no-install-recommends"},
	{"dnf", "dnf install"},
	{"pacman", "pacman -S"},
	{"zypper", "zypper install"},
	{"apk", "apk add"},
}

func programs(ctx context.Context, o Options) []api.Finding {
	wanted := []program{mke2fs, ssh, git}
	if choice, err := o.choose(); err != nil || choice.Name == vmm.FCQEMU {
		wanted = append([]program{qemu}, wanted...)
	}
	var found []api.Finding
	for _, p := range wanted {
		found = append(found, p.look(ctx, o.Host))
	}
	return found
}

func (p program) look(ctx context.Context, h Host) api.Finding {
	path, err := h.LookPath(p.name)
	if err != nil {
		return api.Finding{Check: p.name, Level: p.need, Detail: "not found: " + p.why, Hint: p.hint(h)}
	}
	return api.Finding{Check: p.name, Level: api.LevelOK, Detail: path + ": " + version(ctx, h, path, p.flag)}
}

func (p program) hint(h Host) string {
	for _, i := range install {
		if _, err := h.LookPath(i.manager); err == nil {
			return i.command + " " + p.packages[i.manager]
		}
	}
	return "install the package that brings " + p.name
}

// patience is how long a program may take to tell its version.
const patience = 5 * time.Second

// version is the first line that a program says of itself, wherever it says
// it.
func version(ctx context.Context, h Host, path, flag string) string {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	out, err := h.Output(ctx, path, flag)
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" && err != nil {
		return fmt.Sprintf("does not tell its version: %v", err)
	}
	return strings.TrimSpace(line)
}

func companions(_ context.Context, o Options) []api.Finding {
	var missing []string
	for _, name := range []string{"fcqemu", "banger-init", "banger-vsock-agent"} {
		if _, err := o.Host.LookPath(filepath.Join(o.Companions, name)); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return one("companions", api.LevelError, fmt.Sprintf("%s lacks %s", o.Companions, strings.Join(missing, ", ")),
			"run `make install` again, with the same PREFIX as for banger")
	}
	return one("companions", api.LevelOK, o.Companions, "")
}

func output(ctx context.Context, path string, args ...string) ([]byte, error) {
	return exec.CommandContext(ctx, path, args...).CombinedOutput()
}
