package cli

import (
	"bufio"
	"context"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/workspace"
)

type vmWorkspaceDiffOptions struct {
	guestPath string
	stat      bool
	json      bool
}

func newVMWorkspaceDiffCommand(d *deps) *cobra.Command {
	var o vmWorkspaceDiffOptions
	c := &cobra.Command{
		Use:   "diff <vm>",
		Short: "Show what changed in a VM's workspace since it went in",
		Long: `Show what changed in a VM's workspace since it went in, as git's diff of the files:
what was committed in the guest, what was not, and what is new there. Nothing is changed
on the host.`,
		Args:              one("a VM"),
		ValidArgsFunction: d.completeVMs,
		RunE:              func(c *cobra.Command, args []string) error { return runVMWorkspaceDiff(c.Context(), o, d, args[0]) },
	}
	addWorkspacePath(c, &o.guestPath)
	c.Flags().BoolVar(&o.stat, "stat", false, "only tell how much changed in which file")
	addJSON(c, &o.json)
	return c
}

// addWorkspacePath adds the flag that says which of several workspaces is meant.
func addWorkspacePath(c *cobra.Command, path *string) {
	c.Flags().StringVar(path, "guest-path", "", "`place` in the guest, where the VM has several workspaces")
}

// workspaceDiff is what `vm workspace diff --json` prints.
type workspaceDiff struct {
	Host    string             `json:"host_path"`
	Guest   string             `json:"guest_path"`
	Files   []workspace.File   `json:"files"`
	Commits []workspace.Commit `json:"commits"`
	Risks   []workspace.Risk   `json:"runs_by_itself"`
	Unsaved bool               `json:"unsaved"` // some of it has not come back
}

func runVMWorkspaceDiff(ctx context.Context, o vmWorkspaceDiffOptions, d *deps, name string) error {
	c, err := d.lookAtNamed(ctx, name, o.guestPath)
	if err != nil {
		return err
	}
	defer c.Close()
	if o.json {
		return d.diffJSON(ctx, c)
	}
	var options []string
	if o.stat {
		options = append(options, "--stat")
	}
	if !isTerminal(d.out) {
		return c.Diff(ctx, d.out, options...)
	}
	return writeClean(d.out, func(w io.Writer) error { return c.Diff(ctx, w, options...) })
}

func (d *deps) diffJSON(ctx context.Context, c *workspace.Changes) error {
	diff := workspaceDiff{Host: c.Host(), Guest: c.Guest(), Files: []workspace.File{}, Commits: []workspace.Commit{}, Risks: []workspace.Risk{}, Unsaved: c.Unsaved()}
	files, err := c.Files(ctx)
	if err != nil {
		return err
	}
	commits, err := c.Commits(ctx)
	if err != nil {
		return err
	}
	found, err := c.Risks(ctx)
	if err != nil {
		return err
	}
	diff.Files, diff.Commits, diff.Risks = append(diff.Files, files...), append(diff.Commits, commits...), append(diff.Risks, found...)
	return ui.JSON(d.out, diff)
}

// lookAtNamed is lookAt for a VM's name.
func (d *deps) lookAtNamed(ctx context.Context, name, guest string) (*workspace.Changes, error) {
	vm, err := d.client.VM(ctx, name)
	if err != nil {
		return nil, err
	}
	guest, err = chooseWorkspace(vm, guest)
	if err != nil {
		return nil, err
	}
	progress := d.progress(false)
	defer progress.Done()
	return d.lookAt(ctx, vm, guest)
}

// writeClean lets through what does not drive a terminal: the text is the
// guest's.
func writeClean(w io.Writer, write func(io.Writer) error) error {
	r, pipe := io.Pipe()
	go func() { pipe.CloseWithError(write(pipe)) }()
	defer r.Close()
	out := bufio.NewWriter(w)
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadString('\n')
		clean := ui.Clean(strings.TrimSuffix(strings.ReplaceAll(line, "\t", "        "), "\n"))
		if strings.HasSuffix(line, "\n") {
			clean += "\n"
		}
		if _, failed := out.WriteString(clean); failed != nil {
			return failed
		}
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
	}
}
