package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// run runs the suite's tests and shows what a person wants to see of it.
func (s suite) run(ctx context.Context, show io.Writer) tally {
	var t tally
	args, err := s.args()
	if err != nil {
		t.fail(s.name + ": " + err.Error())
		return t
	}
	r := newReader(show, s.loud)
	if err := goTest(ctx, args, r); err != nil {
		t.fail(s.name + ": " + err.Error())
	}
	t.add(r.tally())
	if t.passed == 0 && len(t.failures) == 0 {
		t.fail(s.name + ": no test ran")
	}
	return t
}

// args are go test's: the tests of the tagged files, or all of them.
func (s suite) args() ([]string, error) {
	args := append([]string{"test", "-json", "-count=1"}, s.flags...)
	if s.tag == "" {
		return append(args, s.packages...), nil
	}
	tests, packages, err := tagged(".", s.tag)
	if err != nil {
		return nil, err
	}
	packages = slices.DeleteFunc(packages, func(p string) bool { return !within(p, s.packages) })
	if len(packages) == 0 {
		return nil, fmt.Errorf("no package of it has a test")
	}
	args = append(args, "-tags="+s.tag, "-run=^("+strings.Join(tests, "|")+")$")
	return append(args, packages...), nil
}

// within tells whether a package is one of a list that may end in "/...".
func within(pkg string, list []string) bool {
	return slices.ContainsFunc(list, func(p string) bool {
		if tree, ok := strings.CutSuffix(p, "/..."); ok {
			return pkg == tree || strings.HasPrefix(pkg, tree+"/")
		}
		return pkg == p
	})
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)

// tagged finds the tests in files that are built with the tag only, and their
// packages.
func tagged(root, tag string) (tests, packages []string, err error) {
	line := []byte("//go:build " + tag + "\n")
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(text, line) && !bytes.Contains(text, append([]byte("\n"), line...)) {
			return err
		}
		found := testFunc.FindAllSubmatch(text, -1)
		for _, match := range found {
			tests = append(tests, string(match[1]))
		}
		if pkg := "./" + filepath.ToSlash(filepath.Dir(path)); len(found) > 0 && !slices.Contains(packages, pkg) {
			packages = append(packages, pkg)
		}
		return nil
	})
	return tests, packages, err
}

// goTest feeds r with the events of one go test. That a test failed is no
// error here: r has seen it.
func goTest(ctx context.Context, args []string, r *reader) error {
	test := exec.CommandContext(ctx, "go", args...)
	test.Cancel = func() error { return test.Process.Signal(syscall.SIGINT) }
	test.Stderr = os.Stderr
	events, err := test.StdoutPipe()
	if err != nil {
		return err
	}
	if err := test.Start(); err != nil {
		return err
	}
	readErr := r.read(events)
	io.Copy(io.Discard, events)
	err = test.Wait()
	if readErr != nil {
		return readErr
	}
	if err != nil && len(r.tally().failures) == 0 {
		return fmt.Errorf("go test: %w", err)
	}
	return nil
}
