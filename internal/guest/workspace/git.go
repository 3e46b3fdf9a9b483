package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/banger-vm/banger/internal/workspace/wire"
)

const (
	// gitTime bounds what the guest's git may take.
	gitTime = 10 * time.Minute
	// maxRefs bounds how many branches the host is told of.
	maxRefs = 2000
	// maxRefFile is more than any file of a ref holds.
	maxRefFile = 4 << 10
)

// git tells how a repository stands and packs the commits that the host does
// not have. A guest without git has made none.
func (s *Server) git(conn *wire.Conn, ask wire.Ask) error {
	have, err := conn.ReadNames()
	if err != nil {
		return err
	}
	if ask.Repo != "" {
		if err := wire.CheckPath(ask.Repo); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), gitTime)
	defer cancel()
	g := gitIn{ctx: ctx, dir: filepath.Join(ask.Path, ask.Repo), env: s.Env()}
	heads, tips, err := g.heads(have)
	if err != nil {
		heads, tips = wire.Heads{Note: err.Error()}, nil
	}
	if err := conn.JSON(wire.Answer{Git: &heads}); err != nil {
		return err
	}
	if len(tips) == 0 {
		return afterAnswer(conn.Chunks(bytes.NewReader(nil)))
	}
	return afterAnswer(g.pack(conn, tips, have))
}

// gitIn is the guest's git in one repository.
type gitIn struct {
	ctx context.Context
	dir string
	env []string
}

func (g gitIn) command(args ...string) *exec.Cmd {
	program := "git"
	for _, pair := range g.env {
		if list, ok := strings.CutPrefix(pair, "PATH="); ok {
			program = find(list, program)
		}
	}
	args = append([]string{"-C", g.dir, "--git-dir=" + gitDir, "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"}, args...)
	cmd := exec.CommandContext(g.ctx, program, args...)
	cmd.Env = append(slices.Clone(g.env), "GIT_OPTIONAL_LOCKS=0", "GIT_NO_LAZY_FETCH=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	return cmd
}

// find looks a program up in a PATH that is not this process's.
func find(list, name string) string {
	for _, dir := range filepath.SplitList(list) {
		full := filepath.Join(dir, name)
		if info, err := os.Stat(full); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return full
		}
	}
	return "/nowhere/" + name
}

func (g gitIn) run(stdin string, args ...string) (string, error) {
	cmd := g.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("the guest's git %s: %w: %s", args[0], err, bytes.TrimSpace(errs.Bytes()))
	}
	return strings.TrimRight(out.String(), "\n"), nil
}

// heads tells the refs, and which of them the host does not have.
func (g gitIn) heads(have []string) (wire.Heads, []string, error) {
	if _, err := g.run("", "version"); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return wire.Heads{}, nil, nil
		}
		return wire.Heads{}, nil, err
	}
	h := wire.Heads{HasGit: true}
	text, err := g.run("", "for-each-ref", fmt.Sprintf("--count=%d", maxRefs), "--format=%(objectname) %(refname)", "refs/heads", "refs/stash")
	if err != nil {
		return h, nil, err
	}
	var tips []string
	for line := range strings.Lines(text) {
		oid, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		h.Refs = append(h.Refs, wire.Ref{Name: name, OID: oid})
		tips = append(tips, oid)
	}
	// Both fail where there is nothing to tell: an unborn branch, a detached HEAD.
	if h.Head, err = g.run("", "rev-parse", "--verify", "--quiet", "HEAD^{commit}"); err == nil {
		tips = append(tips, h.Head)
	}
	if branch, err := g.run("", "symbolic-ref", "--quiet", "HEAD"); err == nil {
		h.Branch = branch
	}
	slices.Sort(tips)
	tips = slices.DeleteFunc(slices.Compact(tips), func(oid string) bool { return slices.Contains(have, oid) })
	return h, tips, nil
}

// pack sends all that the tips reach and the host has not.
func (g gitIn) pack(conn *wire.Conn, tips, have []string) error {
	// An object that the guest has lost can't be excluded by its name.
	text, err := g.run(strings.Join(have, "\n")+"\n", "cat-file", "--batch-check=%(objectname)")
	if err != nil {
		return err
	}
	var revs strings.Builder
	for _, tip := range tips {
		revs.WriteString(tip + "\n")
	}
	for line := range strings.Lines(text) {
		if oid := strings.TrimSpace(line); slices.Contains(have, oid) {
			revs.WriteString("^" + oid + "\n")
		}
	}
	cmd := g.command("pack-objects", "--revs", "--stdout", "-q", "--delta-base-offset")
	cmd.Stdin = strings.NewReader(revs.String())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("cannot run the guest's git: %w", err)
	}
	sent := conn.Chunks(&packed{Reader: out, wait: cmd.Wait})
	if sent != nil {
		cancelled := cmd.Process.Kill()
		return errors.Join(sent, cancelled)
	}
	return nil
}

// packed ends only when git has said that it is done: a pack that was cut off
// must not look whole.
type packed struct {
	io.Reader
	wait func() error
}

func (p *packed) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	if errors.Is(err, io.EOF) {
		if failed := p.wait(); failed != nil {
			return n, fmt.Errorf("the guest's git could not pack its commits: %w", failed)
		}
	}
	return n, err
}

// refsMoved says whether a repository's refs are others than what the host put
// or got: another HEAD, or a branch or a stash in a file of its own, where the
// host's are in packed-refs.
func refsMoved(dir string, repo wire.Repo) (bool, error) {
	have, err := readSmall(filepath.Join(dir, "HEAD"))
	if err != nil {
		return false, err
	}
	if !slices.Contains(repo.Heads, have) {
		return true, nil
	}
	packed, err := os.ReadFile(filepath.Join(dir, "packed-refs"))
	if err != nil && !os.IsNotExist(err) {
		return false, fmt.Errorf("cannot read the refs: %w", err)
	}
	moved := false
	err = walkLoose(dir, []string{"refs/heads", "refs/stash"}, func(name, value string) error {
		known := bytes.Contains(packed, []byte(value+" "+name+"\n")) || slices.Contains(repo.Refs, wire.Ref{Name: name, OID: value})
		moved = moved || !known
		return nil
	})
	return moved, err
}

// dropLooseRefs removes the refs in files of their own, which would hide those
// in packed-refs.
func dropLooseRefs(dir string) error {
	return walkLoose(dir, []string{"refs/heads", "refs/tags", "refs/remotes"}, func(name, _ string) error {
		return os.Remove(filepath.Join(dir, name))
	})
}

func walkLoose(dir string, roots []string, f func(name, value string) error) error {
	for _, root := range roots {
		err := filepath.WalkDir(filepath.Join(dir, root), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			value, err := readSmall(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			return f(name, value)
		})
		if err != nil {
			return fmt.Errorf("cannot read the refs: %w", err)
		}
	}
	return nil
}

// readSmall reads the one line of a ref's file.
func readSmall(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the refs: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxRefFile))
	if err != nil {
		return "", fmt.Errorf("cannot read the refs: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
