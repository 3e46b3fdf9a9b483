package workspace_test

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/banger-vm/banger/internal/killtest"
	"github.com/banger-vm/banger/internal/workspace"
)

// victim does what it is named after, in a process of its own that kills itself.
func victim(t *testing.T, self *killtest.Victim, deed func(store workspace.Store, target workspace.Target, host string) error) {
	dir, host, guest, socket := self.Args[0], self.Args[1], self.Args[2], self.Args[3]
	dial := func(ctx context.Context) (io.ReadWriteCloser, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	store := workspace.Store{Dir: dir, AtStep: self.AtStep}
	self.Lives(t, deed(store, workspace.Target{VM: "0badcafe", Name: "box", Guest: guest, Dial: dial, Announce: unheard}, host))
}

// kill has a process of this test kill itself at a step.
func (w *world) kill(t *testing.T, step, host, guest string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	check(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				w.server.Serve(conn)
			}()
		}
	}()
	killtest.Kill(t, step, w.store.Dir, host, guest, socket)
}

func put(store workspace.Store, target workspace.Target, host string) error {
	source, err := workspace.Open(context.Background(), host, asItIs)
	if err != nil {
		return err
	}
	defer source.Close()
	_, err = source.Put(context.Background(), store, target, nil)
	return err
}

// TestKillAtEveryStepOfAPut kills who brings a workspace in at each step, the
// first time and with changes. The same again brings it in, and nothing is left
// of the killed ones.
func TestKillAtEveryStepOfAPut(t *testing.T) {
	if self := killtest.Self(); self != nil {
		victim(t, self, put)
	}
	t.Parallel()
	dir := repository(t)
	for _, step := range workspace.PutSteps {
		t.Run("new at "+step, func(t *testing.T) {
			w := newWorld(t)
			w.kill(t, step, dir, w.at("repo"))
			w.isIn(t, dir, "repo")
		})
	}
	for _, step := range workspace.UpdateSteps {
		t.Run("again at "+step, func(t *testing.T) {
			w := newWorld(t)
			w.put(dir, "repo", asItIs)
			write(t, dir, map[string]string{"a": step + "\n", "dir/new" + step: "new\n"})
			w.kill(t, step, dir, w.at("repo"))
			w.isIn(t, dir, "repo")
		})
	}
}

// isIn puts the same again and looks whether all is as it should be, and nothing
// is left of who was killed.
func (w *world) isIn(t *testing.T, dir, name string) {
	t.Helper()
	in := w.put(dir, name, asItIs)
	if got, want := tree(t, in), tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("the guest has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	sameHistory(t, dir, in)
	c := w.look(name)
	if c.Any() {
		t.Error("the guest has work of its own")
	}
	c.Close()
	if entries, err := os.ReadDir(w.root); err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("the guest has %v, %v", entries, err)
	}
	for pattern, want := range map[string]int{"scratch*": 0, "manifest-*": 1, "workspace.json*": 1, "git-*": 1} {
		if found, err := filepath.Glob(filepath.Join(w.store.Dir, "0badcafe", "*", pattern)); err != nil || len(found) != want {
			t.Errorf("the host has %q, %v", found, err)
		}
	}
}

// TestStepsAreThoseOfTheLists holds what is walked against what is done.
func TestStepsAreThoseOfTheLists(t *testing.T) {
	t.Parallel()
	dir, w := repository(t), newWorld(t)
	var went []string
	w.store.AtStep = func(step string) { went = append(went, step) }
	in := w.put(dir, "repo", asItIs)
	write(t, dir, map[string]string{"dir/b": "host\n"})
	w.put(dir, "repo", asItIs)
	write(t, in, map[string]string{"a": "guest\n"})
	_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
	check(t, err)
	if want := slices.Concat(workspace.PutSteps, workspace.UpdateSteps, workspace.PullSteps); !slices.Equal(went, want) {
		t.Errorf("the steps are %q, the lists have %q", went, want)
	}
}

// TestKillAtEveryStepOfAPull kills who brings the work back at each step. The
// same again brings it, once.
func TestKillAtEveryStepOfAPull(t *testing.T) {
	if self := killtest.Self(); self != nil {
		victim(t, self, func(store workspace.Store, target workspace.Target, _ string) error {
			c, err := store.Look(context.Background(), target.VM, target.Guest, target.Dial)
			if err != nil {
				return err
			}
			_, err = c.Pull(context.Background(), store, "banger/box")
			return err
		})
	}
	t.Parallel()
	for _, step := range workspace.PullSteps {
		t.Run(step, func(t *testing.T) {
			dir, w := repository(t), newWorld(t)
			in := w.put(dir, "repo", asItIs)
			write(t, in, map[string]string{"a": "guest\n"})
			w.kill(t, step, dir, in)
			if !w.look("repo").Unsaved() {
				t.Error("what was not remembered counts as saved")
			}
			_, err := w.look("repo").Pull(t.Context(), w.store, "banger/box")
			check(t, err)
			if got := git(t, dir, "log", "--format=%s", "main..banger/box"); got != "Uncommitted work from the guest" {
				t.Errorf("the branch has %q", got)
			}
			if got := git(t, dir, "show", "banger/box:a"); got != "guest" {
				t.Errorf("a is %q", got)
			}
			if w.look("repo").Unsaved() {
				t.Error("what was pulled counts as lost")
			}
		})
	}
}
