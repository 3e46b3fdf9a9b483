package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/banger-vm/banger/internal/guest/timerslack"
)

// toolingScript lets mise install what a workspace names. Whoever put it there
// trusts it.
const toolingScript = `command -v mise >/dev/null || { echo "the guest has no mise"; exit; }
export MISE_YES=1
for file in .mise.toml mise.toml; do
	[ ! -e "$file" ] || mise trust "$file"
done
mise install`

// toolingProfile activates mise in shells for people.
const toolingProfile = `# written by banger: a workspace names tools for mise
case $- in
*i*) if [ -n "$BASH_VERSION" ] && command -v mise >/dev/null; then eval "$(mise activate bash)"; fi ;;
esac
`

// startTooling lets mise install the tools of a workspace, in the background
// and as well as it can: what it says is in a log.
func (a *Agent) startTooling(path string) {
	log, err := a.toolingLog(path)
	if err != nil {
		return // there is nobody to tell
	}
	if err := putFile(a.path("/etc/profile.d/banger-mise.sh"), []byte(toolingProfile), 0o644); err != nil {
		fmt.Fprintln(log, err)
	}
	cmd := exec.Command("/bin/sh", "-c", toolingScript)
	cmd.Dir, cmd.Env = path, a.rootEnv(nil, false)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	go func() {
		defer log.Close()
		err := timerslack.Punctual(cmd.Start)
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			fmt.Fprintln(log, "the tools could not be installed:", err)
		}
	}()
}

func (a *Agent) toolingLog(path string) (*os.File, error) {
	dir := filepath.Join(a.path(a.rootUser().home), ".cache", "banger")
	err := os.MkdirAll(dir, 0o755)
	log, failed := os.Create(filepath.Join(dir, "vm-run-tooling-"+filepath.Base(path)+".log"))
	return log, errors.Join(err, failed)
}
