// Package buildcontext is what a container image is built from, as `docker
// build` finds it: a directory, a Dockerfile and an ignore file, or a stream. It
// reads the user's files and runs as the user. What a Dockerfile means only a
// builder knows, and the builder applies the ignore file too: here it saves the
// way of what would be ignored.
package buildcontext

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

// maxFile bounds a Dockerfile and an ignore file, which are read whole.
const maxFile = 1 << 20

// Context is what one build is made from.
type Context struct {
	Dir        string
	Dockerfile []byte
	Ignore     []byte // nil: there is no ignore file

	// Stream is all of it as `docker build -` takes it, a tar archive or a
	// Dockerfile; nil: it is the directory. File is then the Dockerfile's name
	// in the archive, "" for the usual one.
	Stream io.Reader
	File   string

	ignored *patternmatcher.PatternMatcher
}

// Open finds the Dockerfile of a directory, or the one at file, which - reads
// from stdin. The directory - is a context that comes from stdin. Errors are
// *api.Error of kind bad-request, or ctx's when it ends first: stdin may say
// nothing for long.
func Open(ctx context.Context, dir, file string, stdin io.Reader) (*Context, error) {
	if dir == "-" {
		return openStream(ctx, file, stdin)
	}
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	c := &Context{Dir: dir}
	path, err := c.readDockerfile(ctx, file, stdin)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(c.Dockerfile)) == 0 {
		return nil, bad("it begins with FROM", "%s is empty", path)
	}
	return c, c.readIgnore(path)
}

func openStream(ctx context.Context, file string, stdin io.Reader) (*Context, error) {
	if file == "-" {
		return nil, bad("give the directory, or put the Dockerfile into the archive", "standard input can't be both the context and the Dockerfile")
	}
	all := bufio.NewReader(stdin)
	_, err := until(ctx, func() ([]byte, error) { return all.Peek(1) })
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, bad("like `tar c . | banger image build -t app -`, or a Dockerfile that needs no files", "there is no context on standard input: %v", err)
	}
	return &Context{Stream: all, File: file}, nil
}

// until reads, and leaves the reading to itself when ctx ends: a read of a pipe
// is not to be interrupted.
func until(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	var data []byte
	done := make(chan error, 1)
	go func() {
		var err error
		data, err = read()
		done <- err
	}()
	select {
	case err := <-done:
		return data, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func bad(hint, format string, args ...any) error {
	return &api.Error{Kind: api.KindBadRequest, Message: fmt.Sprintf(format, args...), Hint: hint}
}

func checkDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil && (strings.Contains(dir, "://") || strings.HasPrefix(dir, "git@")):
		return bad("clone or unpack it into a directory first, or send it to standard input as a tar", "the context of a build is a directory of this host or -, not %s", dir)
	case err != nil:
		return bad("it is the directory that COPY takes files from", "cannot use the context: %v", err)
	case !info.IsDir():
		return bad("it is the directory that COPY takes files from; -f names the Dockerfile", "the context %s is not a directory", dir)
	}
	return nil
}

// readDockerfile gives the Dockerfile's path too.
func (c *Context) readDockerfile(ctx context.Context, file string, stdin io.Reader) (path string, err error) {
	switch {
	case file == "-":
		c.Dockerfile, err = until(ctx, func() ([]byte, error) { return readAll(stdin, "the Dockerfile on standard input") })
		return "-", err
	case file != "":
		c.Dockerfile, err = readFile(file)
	default:
		file = filepath.Join(c.Dir, "Dockerfile")
		c.Dockerfile, err = readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			if lower, lowerErr := readFile(filepath.Join(c.Dir, "dockerfile")); lowerErr == nil {
				c.Dockerfile, err = lower, nil
			}
		}
	}
	if err != nil {
		return "", bad("-f names another one; its path is not below the context, but below the current directory", "cannot read the Dockerfile: %v", err)
	}
	return file, nil
}

// readIgnore reads what is not a part of the context: the Dockerfile's own
// ignore file, else the directory's.
func (c *Context) readIgnore(dockerfile string) error {
	data, err := readFile(dockerfile + ".dockerignore")
	if errors.Is(err, fs.ErrNotExist) {
		data, err = readFile(filepath.Join(c.Dir, ".dockerignore"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return bad("", "cannot read what to ignore: %v", err)
	}
	patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
	if err == nil {
		c.ignored, err = patternmatcher.New(patterns)
	}
	if err != nil {
		return bad("", "cannot read what to ignore: %v", err)
	}
	c.Ignore = data
	return nil
}

// readFile reads a small file. It does not wait for a writer of a pipe.
func readFile(path string) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readAll(file, path)
}

func readAll(r io.Reader, what string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = bad("", "%s has more than %d KiB", what, maxFile>>10)
	}
	return data, err
}

// Keep tells whether a file or directory goes to the builder, by its path within
// the context. A directory that is ignored goes when something in it may not be.
func (c *Context) Keep(path string, dir bool) bool {
	if c.ignored == nil {
		return true
	}
	ignored, err := c.ignored.MatchesOrParentMatches(path)
	if err != nil || !ignored {
		return true
	}
	return dir && c.mayHoldExceptions(path)
}

// mayHoldExceptions says whether a pattern like !path may mean something below
// a directory.
func (c *Context) mayHoldExceptions(dir string) bool {
	for _, p := range c.ignored.Patterns() {
		literal := p.String()
		if wild := strings.IndexAny(literal, `*?[\`); wild >= 0 {
			literal = literal[:wild]
		}
		if p.Exclusion() && (strings.HasPrefix(literal, dir+"/") || strings.HasPrefix(dir+"/", literal)) {
			return true
		}
	}
	return false
}

// Size is how many bytes go to the builder. What can't be read counts nothing.
func (c *Context) Size() (int64, error) {
	var sum int64
	err := filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it is left out of the copy too, which says so
		}
		within, err := filepath.Rel(c.Dir, path)
		if err != nil {
			return err
		}
		if within != "." && !c.Keep(within, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			sum += info.Size()
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("cannot look through the context: %w", err)
	}
	return sum, nil
}
