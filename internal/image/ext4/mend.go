package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/banger-vm/banger/api"
)

// Tools runs e2fsck and debugfs of e2fsprogs on filesystems that a guest has
// written: they run as an unprivileged user, who may have nothing but the file.
type Tools struct {
	// UID is the user. The file is given to it and stays its own.
	UID int
}

// Mend replays the journal of the filesystem at path and corrects what is
// wrong. One that can't be corrected is an error.
func (t Tools) Mend(ctx context.Context, path string) error { return t.check(ctx, path, "-f", "-y") }

// Wipe checks the filesystem at path and makes holes of all blocks that no file
// has, so that nothing is left of what was deleted.
func (t Tools) Wipe(ctx context.Context, path string) error {
	return t.check(ctx, path, "-f", "-y", "-E", "discard")
}

// check runs e2fsck; its statuses 0 and 1 are a filesystem that is in order now.
func (t Tools) check(ctx context.Context, path string, args ...string) error {
	out, err := t.run(ctx, "e2fsck", path, nil, nil, args...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot check the filesystem: %w: %.500s", err, bytes.TrimSpace(out))
	}
	return nil
}

// Read gives the content of a file of the filesystem; empty when there is none.
func (t Tools) Read(ctx context.Context, path, file string) (string, error) {
	out, err := t.run(ctx, "debugfs", path, nil, nil, "-R", "cat "+file)
	return string(out), err
}

// List gives the names in a directory of the filesystem that have nothing in
// them but letters, digits and @._~=-; none when there is no such directory.
func (t Tools) List(ctx context.Context, path, dir string) ([]string, error) {
	out, err := t.run(ctx, "debugfs", path, nil, nil, "-R", "ls -p "+dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(line, "/")
		if len(fields) < 7 || fields[5] == "." || fields[5] == ".." || strings.Trim(fields[5], plainLetters) != "" {
			continue
		}
		names = append(names, fields[5])
	}
	return names, nil
}

const plainLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@._~=-"

// Edit is a change of a filesystem: a file is removed and, with Content, made
// anew with mode 0644.
type Edit struct {
	Dir, Name string // "/etc", "hosts"
	Replace   bool
	Content   string
	Directory bool // Name is an empty directory
}

// Apply makes changes to the filesystem at path. What is not there can't be
// removed, and that is no error.
func (t Tools) Apply(ctx context.Context, path string, edits []Edit) error {
	var commands strings.Builder
	var contents []*os.File
	defer func() {
		for _, c := range contents {
			c.Close()
		}
	}()
	for _, e := range edits {
		remove := "rm"
		if e.Directory {
			remove = "rmdir"
		}
		fmt.Fprintf(&commands, "%s %s/%s\n", remove, e.Dir, e.Name)
		if !e.Replace {
			continue
		}
		content, err := t.lend(e.Content)
		if err != nil {
			return err
		}
		contents = append(contents, content)
		fmt.Fprintf(&commands, "cd %s\nwrite /proc/self/fd/%d %s\ncd /\n", e.Dir, 3+len(contents), e.Name)
	}
	_, err := t.run(ctx, "debugfs", path, strings.NewReader(commands.String()), contents, "-w")
	return err
}

// lend makes a file without a name that the user may read.
func (t Tools) lend(content string) (*os.File, error) {
	file, err := os.CreateTemp("", "banger-edit-")
	if err != nil {
		return nil, fmt.Errorf("cannot change the filesystem: %w", err)
	}
	_, err = file.WriteString(content)
	if err := errors.Join(err, file.Chmod(0o644), os.Remove(file.Name())); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot change the filesystem: %w", err)
	}
	return file, nil
}

// run runs a program of e2fsprogs on the file at path, which it has as its
// third descriptor: it could not look into the directories that lead there.
func (t Tools) run(ctx context.Context, program, path string, in *strings.Reader, more []*os.File, args ...string) ([]byte, error) {
	found, err := findTool(program)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the filesystem: %w", err)
	}
	defer file.Close()
	if os.Geteuid() == 0 {
		if err := file.Chown(t.UID, t.UID); err != nil {
			return nil, fmt.Errorf("cannot give the filesystem to its user: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, found, append(args, "/proc/self/fd/3")...)
	cmd.Dir, cmd.Env = "/", []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBUGFS_PAGER=cat"}
	cmd.ExtraFiles = append([]*os.File{file}, more...)
	if in != nil {
		cmd.Stdin = in
	}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(t.UID), Gid: uint32(t.UID)}}
	}
	out := &limited{left: maxOutput}
	cmd.Stdout = out
	var complaint limited
	complaint.left = maxOutput
	cmd.Stderr = &complaint
	err = cmd.Run()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return append(out.Bytes(), complaint.Bytes()...), fmt.Errorf("%s: %w", program, err)
	}
	return out.Bytes(), nil
}

// maxOutput bounds what a program may say.
const maxOutput = 4 << 20

// limited keeps the beginning of what is written to it.
type limited struct {
	bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	kept := p[:min(len(p), l.left)]
	l.left -= len(kept)
	l.Buffer.Write(kept)
	return len(p), nil
}

func findTool(name string) (string, error) {
	for _, at := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if path, err := exec.LookPath(at); err == nil {
			return path, nil
		}
	}
	return "", &api.Error{Kind: api.KindHost, Message: fmt.Sprintf("the program %s is not on this host", name), Hint: "install the package e2fsprogs"}
}
