package agent

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// setEnvironment makes c.Env reach whatever starts in the guest: PAM sessions
// (/etc/environment), login shells (profile.d), and systemd's services. Those
// who log in get what the image says below it. The agent's own commands get it
// all from the agent.
func (a *Agent) setEnvironment(c proto.Config) error {
	if c.Env == nil && c.Container == nil {
		return nil
	}
	now := a.present()
	logins := map[string]string{}
	for name, value := range imageEnv(now.container) {
		if checkEnv(map[string]string{name: value}) == nil { // what no file can hold is the agent's alone
			logins[name] = value
		}
	}
	maps.Copy(logins, now.env)
	names := slices.Sorted(maps.Keys(logins))
	return errors.Join(
		a.setPAMEnvironment(names, logins),
		a.setProfile(names, logins),
		a.setServiceEnvironment(slices.Sorted(maps.Keys(now.env)), now.env),
	)
}

// setPAMEnvironment writes /etc/environment, whose lines pam_env takes as they
// are, up to quotes around a value.
func (a *Agent) setPAMEnvironment(names []string, env map[string]string) error {
	var lines []string
	for _, name := range names {
		lines = append(lines, name+"="+env[name])
	}
	if _, err := os.Stat(a.path("/etc/environment")); err != nil && len(lines) == 0 {
		return nil
	}
	return putBlock(a.path("/etc/environment"), lines, 0o644)
}

func (a *Agent) setProfile(names []string, env map[string]string) error {
	path := a.path("/etc/profile.d/banger.sh")
	if len(names) == 0 {
		return removeFile(path)
	}
	var text strings.Builder
	text.WriteString("# written by banger at each start\n")
	for _, name := range names {
		fmt.Fprintf(&text, "export %s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
	}
	return putFile(path, []byte(text.String()), 0o644)
}

// setServiceEnvironment writes a drop-in for all services, the Docker daemon
// among them, where systemd will read it; one that runs already is told.
func (a *Agent) setServiceEnvironment(names []string, env map[string]string) error {
	if a.init != proto.InitSystemd {
		return nil
	}
	path := a.path("/run/systemd/system/service.d/50-banger-environment.conf")
	before, _ := os.ReadFile(path)
	text := serviceEnvironment(names, env)
	if text == string(before) {
		return nil
	}
	if text == "" {
		if err := removeFile(path); err != nil {
			return err
		}
	} else if err := putFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	if _, err := os.Stat(a.path("/run/systemd/private")); err == nil {
		// Only new services need it, so nobody waits for the reload, nor for
		// its failure.
		go func() { _ = exec.Command("systemctl", "daemon-reload").Run() }()
	}
	return nil
}

func serviceEnvironment(names []string, env map[string]string) string {
	if len(names) == 0 {
		return ""
	}
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`)
	var text strings.Builder
	text.WriteString("# written by banger at each start\n[Service]\n")
	for _, name := range names {
		fmt.Fprintf(&text, "Environment=\"%s=%s\"\n", name, escape.Replace(env[name]))
	}
	return text.String()
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("cannot remove %s: %w", path, err)
	}
	return nil
}

// user is someone as the image describes them.
type user struct {
	name, home, shell string
	uid, gid          uint32
	groups            []uint32 // further ones
}

// rootUser reads the image's /etc/passwd; an image without one has a root too.
func (a *Agent) rootUser() user {
	u := user{name: "root", home: "/root"}
	text, err := os.ReadFile(a.path("/etc/passwd"))
	if err == nil {
		u = parseRoot(string(text), u)
	}
	if u.shell == "" || !isProgram(a.path(u.shell)) {
		u.shell = "/bin/sh"
	}
	return u
}

func parseRoot(passwd string, u user) user {
	for line := range strings.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 7 && fields[2] == "0" {
			return user{name: "root", home: fields[5], shell: fields[6]}
		}
	}
	return u
}

// standardPath is Debian's for root. The shims of mise come first wherever the
// path is from, so that what it installed is found without an activated shell.
const (
	standardPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	miseShims    = ".local/share/mise/shims"
)

// loginEnv is the environment of a command, sorted: a login's defaults, the
// image's /etc/environment and what it says besides, the host's configuration,
// what the request asks.
func (a *Agent) loginEnv(u user, image, asked map[string]string, terminal bool) []string {
	env := map[string]string{
		"PATH": standardPath, "HOME": u.home, "USER": u.name, "LOGNAME": u.name, "SHELL": u.shell, "LANG": "C.UTF-8",
	}
	if terminal {
		env["TERM"] = "xterm-256color"
	}
	if text, err := os.ReadFile(a.path("/etc/environment")); err == nil {
		maps.Copy(env, parseEnvironment(string(text)))
	}
	maps.Copy(env, image)
	maps.Copy(env, a.present().env)
	env["PATH"] = withShims(env["PATH"], u.home+"/"+miseShims)
	maps.Copy(env, asked)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

// rootEnv is the environment of a command of root's.
func (a *Agent) rootEnv(asked map[string]string, terminal bool) []string {
	return a.loginEnv(a.rootUser(), nil, asked, terminal)
}

func withShims(path, shims string) string {
	if slices.Contains(strings.Split(path, ":"), shims) {
		return path
	}
	return shims + ":" + path
}

// parseEnvironment reads /etc/environment as pam_env does.
func parseEnvironment(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "export ")
		name, value, ok := strings.Cut(line, "=")
		if !ok || !isEnvName(name) {
			continue
		}
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		env[name] = value
	}
	return env
}

// lookup returns the value of name in a list of NAME=value.
func lookup(env []string, name string) string {
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, name+"="); ok {
			return value
		}
	}
	return ""
}
