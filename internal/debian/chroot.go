package debian

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Chroot runs programs of a system tree, with that tree as their root, in
// fresh pid, mount, ipc, uts, cgroup and network namespaces: they see no
// process, mount or network of the host, and everything that they started is
// gone when they end, or when the process that ran them dies. /proc, /sys
// (read-only), /dev, /run and /tmp are mounted for them, no part of which is
// left in the tree. It needs root, and no program of the host.
type Chroot struct {
	// Dir is the tree.
	Dir string
	// Env is added to a small environment: PATH, HOME, LANG and debconf's
	// settings to ask nothing.
	Env []string
	// Binds are shown inside, read-only.
	Binds []Bind
	// NoSync makes fsync and its kin do nothing for the programs: for a tree
	// that is thrown away when the work is interrupted.
	NoSync bool
	// Hold are files that stay open until the last program inside has ended:
	// a lock on the tree, so that nobody removes it earlier.
	Hold []*os.File
	// Output gets what the programs write. Nil: it is only kept for the error.
	Output io.Writer
}

// Bind shows the host's directory Source at Target, an absolute path inside
// that is made where it is missing.
type Bind struct {
	Source string
	Target string
}

// ChrootError says that a program in a chroot failed.
type ChrootError struct {
	Program string
	Status  int    // exit status; 128+n when signal n ended it; 125 when it could not be started
	Tail    string // the end of its output
}

func (e *ChrootError) Error() string {
	return fmt.Sprintf("%s ended with status %d: %s", e.Program, e.Status, e.Tail)
}

// chrootArg0 is the name under which this program, started by itself, is the
// first process of a chroot's namespaces.
const chrootArg0 = "banger-chroot"

// chrootOrder is what the first process is told, as JSON in its argument.
type chrootOrder struct {
	Dir    string
	Argv   []string
	Env    []string
	Binds  []Bind
	NoSync bool
}

// baseEnv is the environment of every program inside.
var baseEnv = []string{
	"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"LANG=C.UTF-8",
	"DEBIAN_FRONTEND=noninteractive",
	"DEBCONF_NONINTERACTIVE_SEEN=true",
}

// Run runs argv to its end. A program that ends with another status than 0
// gives a [*ChrootError].
func (c Chroot) Run(ctx context.Context, argv ...string) error {
	order, err := json.Marshal(chrootOrder{
		Dir: c.Dir, Argv: argv, Env: append(baseEnv[:len(baseEnv):len(baseEnv)], c.Env...), Binds: c.Binds, NoSync: c.NoSync,
	})
	if err != nil {
		return fmt.Errorf("cannot encode a chroot's order: %w", err)
	}
	alive, parent, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot make a pipe: %w", err)
	}
	defer alive.Close()
	defer parent.Close() // its end tells the first process that we are gone
	tail := &tailBuffer{}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{chrootArg0, string(order)}
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{alive}, c.Hold...)
	cmd.Stdout = tee(tail, c.Output)
	cmd.Stderr = cmd.Stdout
	cmd.SysProcAttr = &unix.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC |
			unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
	}
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("cannot run %s in the new system: %w", argv[0], context.Cause(ctx))
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = &ChrootError{Program: strings.Join(argv[:min(len(argv), 4)], " "), Status: exit.ExitCode(), Tail: tail.String()}
	}
	if err != nil {
		return fmt.Errorf("cannot run %s in the new system: %w", argv[0], err)
	}
	return nil
}

func tee(tail *tailBuffer, w io.Writer) io.Writer {
	if w == nil {
		return tail
	}
	return io.MultiWriter(tail, w)
}

// tailBuffer keeps the end of what is written to it.
type tailBuffer struct{ data []byte }

const tailBytes = 4096

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if over := len(t.data) - tailBytes; over > tailBytes {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	end := t.data[max(0, len(t.data)-tailBytes):]
	return string(bytes.ToValidUTF8(bytes.TrimSpace(end), []byte("?")))
}
