package config

import (
	"fmt"
	"os/user"
	"path/filepath"
	"strconv"
)

// Paths are banger's directories. Every one is absolute and ends in the
// program's name; none of them need exist yet.
type Paths struct {
	Config  string // ~/.config/banger: what the user wrote
	Cache   string // ~/.cache/banger: may be deleted at any time
	Data    string // ~/.local/share/banger: images and kernels
	State   string // ~/.local/state/banger: the VMs
	Runtime string // $XDG_RUNTIME_DIR/banger or a short stand-in: sockets
}

// Socket is where bangerd listens.
func (p Paths) Socket() string { return filepath.Join(p.Runtime, "bangerd.sock") }

// Log is bangerd's own log.
func (p Paths) Log() string { return filepath.Join(p.State, "bangerd.log") }

// Images holds a directory for each local image.
func (p Paths) Images() string { return filepath.Join(p.Data, "images") }

// Kernels holds a directory for each local kernel.
func (p Paths) Kernels() string { return filepath.Join(p.Data, "kernels") }

// VMs holds a directory for each VM.
func (p Paths) VMs() string { return filepath.Join(p.State, "vms") }

// Workspaces is what is remembered of directories that went into VMs.
func (p Paths) Workspaces() string { return filepath.Join(p.State, "workspaces") }

// SSHKey is the key that banger makes when none is configured.
func (p Paths) SSHKey() string { return filepath.Join(p.Config, "ssh", "id_ed25519") }

// FindPaths places the directories for the user uid by the XDG base directory
// specification: a variable that is not an absolute path counts as unset. A
// missing HOME is looked up in the user database.
func FindPaths(getenv func(string) string, uid int) (Paths, error) {
	home, err := home(getenv, uid)
	if err != nil {
		return Paths{}, err
	}
	dir := func(variable, standIn string) string {
		base := getenv(variable)
		if !filepath.IsAbs(base) {
			base = filepath.Join(home, standIn)
		}
		return filepath.Join(base, "banger")
	}
	return Paths{
		Config:  dir("XDG_CONFIG_HOME", ".config"),
		Cache:   dir("XDG_CACHE_HOME", ".cache"),
		Data:    dir("XDG_DATA_HOME", ".local/share"),
		State:   dir("XDG_STATE_HOME", ".local/state"),
		Runtime: runtimeDir(getenv, uid),
	}, nil
}

func home(getenv func(string) string, uid int) (string, error) {
	if h := getenv("HOME"); filepath.IsAbs(h) {
		return h, nil
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil || !filepath.IsAbs(u.HomeDir) {
		return "", &Error{
			Message: fmt.Sprintf("cannot find the home directory of user %d: HOME is not set", uid),
			Hint:    "set HOME to an absolute path",
		}
	}
	return u.HomeDir, nil
}

// runtimeDir is not /run/banger for root: in a guest that is the agent's, and
// banger runs inside of banger too.
func runtimeDir(getenv func(string) string, uid int) string {
	if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
		return filepath.Join(base, "banger")
	}
	if uid == 0 {
		return "/run/bangerd"
	}
	return fmt.Sprintf("/tmp/banger-%d", uid)
}
