package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/banger-vm/banger/api"
)

// git is the host's git in one directory. It runs no hooks, asks for nothing,
// fetches nothing, and takes no locks of the user's repository.
type git struct {
	dir string
	env []string // beside the usual
}

// settings keep what the repository and the user configured from running.
var settings = []string{
	"-c", "core.hooksPath=/dev/null",
	"-c", "core.fsmonitor=false",
	"-c", "core.splitIndex=false",
	"-c", "core.untrackedCache=false",
	"-c", "index.sparse=false",
	"-c", "credential.helper=",
	"-c", "gc.auto=0",
	"-c", "maintenance.auto=false",
	"-c", "commit.gpgSign=false",
	"-c", "core.pager=cat",
}

// offline keeps git from fetching what a partial clone has left out.
var offline = []string{"-c", "protocol.allow=never"}

func (g git) with(env ...string) git {
	return git{dir: g.dir, env: append(slices.Clone(g.env), env...)}
}

func (g git) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "git", append(slices.Clone(settings), args...)...)
	cmd.Dir = g.dir
	cmd.Env = append(environment(), g.env...)
	return cmd
}

// environment is this process's without what would lead git elsewhere: banger
// may be called from a hook.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return strings.HasPrefix(pair, "GIT_")
	})
	return append(env, "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=false", "SSH_ASKPASS=false", "LC_ALL=C")
}

// run gives what git prints.
func (g git) run(ctx context.Context, args ...string) ([]byte, error) {
	return g.feed(ctx, nil, args...)
}

// line is run for an answer of one line.
func (g git) line(ctx context.Context, args ...string) (string, error) {
	out, err := g.run(ctx, args...)
	return strings.TrimSuffix(string(out), "\n"), err
}

// feed is run with input.
func (g git) feed(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	var out bytes.Buffer
	err := g.pipe(ctx, stdin, &out, append(slices.Clone(offline), args...)...)
	return out.Bytes(), err
}

// pipe runs git between two streams. What it had to say is in the error.
func (g git) pipe(ctx context.Context, stdin io.Reader, stdout io.Writer, args ...string) error {
	cmd := g.command(ctx, args...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, &errs
	err := cmd.Run()
	if errors.Is(err, exec.ErrNotFound) {
		return &api.Error{Kind: api.KindHost, Message: "the program git is not installed", Hint: "install it (Debian: git): workspaces of repositories need it"}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return &gitError{command: verb(args), said: strings.TrimSpace(errs.String()), err: err}
	}
	return nil
}

// verb is git's own command among its arguments.
func verb(args []string) string {
	for i := 0; i < len(args); i++ {
		if args[i] == "-c" {
			i++
			continue
		}
		return args[i]
	}
	return ""
}

// gitError is a git that failed.
type gitError struct {
	command string
	said    string
	err     error
}

func (e *gitError) Error() string {
	said := strings.TrimPrefix(strings.TrimPrefix(e.said, "fatal: "), "error: ")
	if said == "" {
		said = e.err.Error()
	}
	return fmt.Sprintf("git %s: %s", e.command, said)
}

func (e *gitError) Unwrap() error { return e.err }

// fields splits what git prints with -z.
func fields(out []byte) []string {
	text := strings.TrimSuffix(string(out), "\x00")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\x00")
}

// zero joins names for git's --stdin -z.
func zero(names []string) io.Reader {
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name)
		text.WriteByte(0)
	}
	return strings.NewReader(text.String())
}
