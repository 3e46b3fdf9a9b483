package client

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/banger-vm/banger/api"
)

// Default gives a client of the daemon that the command banger of this user
// talks to. Where none runs it starts the bangerd in PATH. It takes a daemon of
// any version: a field that an older one does not know, that one refuses.
func Default() (*Client, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("cannot find your home directory: %v", err),
			Hint: "set HOME to an absolute path"}
	}
	c := New(Options{
		Runtime: runtimeDir(os.Getenv("XDG_RUNTIME_DIR"), os.Getuid()),
		Log:     filepath.Join(stateDir(os.Getenv("XDG_STATE_HOME"), home), "bangerd.log"),
		Daemon:  []string{"bangerd"},
	})
	return c.AnyVersion(), nil
}

// runtimeDir and stateDir are where banger's own settings have them.
func runtimeDir(base string, uid int) string {
	switch {
	case filepath.IsAbs(base):
		return filepath.Join(base, "banger")
	case uid == 0:
		return "/run/bangerd"
	}
	return fmt.Sprintf("/tmp/banger-%d", uid)
}

func stateDir(base, home string) string {
	if !filepath.IsAbs(base) {
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "banger")
}
