package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/banger-vm/banger/internal/guest/proto"
)

// checkContainer refuses what no command could be started with. What the image
// names, a user or a directory, is looked for when a command starts.
func checkContainer(c *proto.Container) error {
	if c == nil {
		return nil
	}
	for _, word := range append(append([]string{c.Cwd, c.User}, c.Env...), c.Argv...) {
		if strings.ContainsRune(word, 0) {
			return badRequest("the image's configuration has a zero byte in it")
		}
	}
	if c.Cwd != "" && !path.IsAbs(c.Cwd) {
		return badRequest("the image's working directory %q is not absolute", c.Cwd)
	}
	return nil
}

// completed gives a command without words the image's.
func (a *Agent) completed(e proto.Exec) proto.Exec {
	if e.Container && len(e.Argv) == 0 {
		e.Argv = a.present().container.Argv
	}
	return e
}

// contain makes an order what the image wants: its user, environment and
// working directory. What was asked for goes over it.
func (a *Agent) contain(o *order, e proto.Exec) error {
	image := a.present().container
	u := a.rootUser()
	if image.User != "" {
		var err error
		if u, err = a.lookUpUser(image.User); err != nil {
			return err
		}
		o.as = &u
	}
	o.env = a.loginEnv(u, imageEnv(image), e.Env, e.TTY)
	switch {
	case o.dir != "":
	case image.Cwd != "":
		o.dir = image.Cwd
		_ = os.MkdirAll(a.path(image.Cwd), 0o755) // the start says that it is not there
	default:
		o.dir = dirOr(u.home, "/")
	}
	return nil
}

// imageEnv is the environment that an image asks for.
func imageEnv(c proto.Container) map[string]string {
	env := map[string]string{}
	for _, pair := range c.Env {
		if name, value, ok := strings.Cut(pair, "="); ok && name != "" {
			env[name] = value
		}
	}
	return env
}

// lookUpUser reads user[:group] as container runtimes do: by the guest's own
// files, and a number that they don't know as it is.
func (a *Agent) lookUpUser(text string) (user, error) {
	name, group, withGroup := strings.Cut(text, ":")
	u, known, err := a.passwdEntry(name)
	if err != nil {
		return user{}, err
	}
	if !known {
		number, err := strconv.ParseUint(name, 10, 31)
		if err != nil {
			return user{}, noUser("user", name)
		}
		u = user{name: name, home: "/", uid: uint32(number)}
	}
	if u.shell == "" || !isProgram(a.path(u.shell)) {
		u.shell = "/bin/sh"
	}
	if !withGroup {
		u.groups, err = a.groupsOf(u.name)
		return u, err
	}
	u.gid, err = a.groupNumber(group)
	return u, err
}

func noUser(kind, name string) error {
	return &proto.ExecError{Kind: proto.ExecCannot, Message: fmt.Sprintf("the image wants the %s %q, which is not in the guest", kind, name)}
}

// passwdEntry finds a user by name, else by number.
func (a *Agent) passwdEntry(name string) (found user, known bool, err error) {
	lines, err := a.accounts("/etc/passwd", 7)
	for _, f := range lines {
		if f[0] != name && (known || f[2] != name) {
			continue
		}
		uid, uidErr := strconv.ParseUint(f[2], 10, 32)
		gid, gidErr := strconv.ParseUint(f[3], 10, 32)
		if uidErr != nil || gidErr != nil {
			continue
		}
		found, known = user{name: f[0], home: f[5], shell: f[6], uid: uint32(uid), gid: uint32(gid)}, true
		if f[0] == name {
			break
		}
	}
	return found, known, err
}

// groupNumber finds a group by name, else by number.
func (a *Agent) groupNumber(name string) (uint32, error) {
	lines, err := a.accounts("/etc/group", 4)
	if err != nil {
		return 0, err
	}
	for _, f := range lines {
		if f[0] == name {
			name = f[2]
			break
		}
	}
	number, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		return 0, noUser("group", name)
	}
	return uint32(number), nil
}

// groupsOf lists the groups that a user is a member of by /etc/group.
func (a *Agent) groupsOf(name string) ([]uint32, error) {
	lines, err := a.accounts("/etc/group", 4)
	var groups []uint32
	for _, f := range lines {
		for member := range strings.SplitSeq(f[3], ",") {
			number, bad := strconv.ParseUint(f[2], 10, 32)
			if member == name && bad == nil {
				groups = append(groups, uint32(number))
			}
		}
	}
	return groups, err
}

// accounts reads a file of lines that have fields between colons. One that is
// not there has no lines.
func (a *Agent) accounts(name string, fields int) ([][]string, error) {
	text, err := os.ReadFile(a.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", name, err)
	}
	var lines [][]string
	for line := range strings.Lines(string(text)) {
		if f := strings.Split(strings.TrimRight(line, "\r\n"), ":"); len(f) == fields {
			lines = append(lines, f)
		}
	}
	return lines, nil
}

// giveTo makes a command's files its user's, who may want to open them again by
// their names in /dev.
func giveTo(u *user, files []*os.File) error {
	if u == nil {
		return nil
	}
	for _, f := range files {
		if err := f.Chown(int(u.uid), -1); err != nil {
			return fmt.Errorf("cannot give the command its files: %w", err)
		}
	}
	return nil
}
