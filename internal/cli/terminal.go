package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"

	"github.com/banger-vm/banger/internal/cli/ui"
)

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// progress shows the steps of an operation in the way that fits stderr.
func (d *deps) progress(asJSON bool) ui.Progress {
	switch {
	case asJSON:
		return ui.NewJSONProgress(d.errs)
	case isTerminal(d.errs):
		width, _, err := term.GetSize(int(d.errs.Fd()))
		if err != nil || width < 20 {
			width = 80
		}
		return ui.NewTerminalProgress(d.errs, width)
	}
	return ui.NewPlainProgress(d.errs, ui.Patience)
}

// size is the terminal's, or the old standard one where there is none.
func size(w io.Writer) (rows, cols uint16) {
	if file, ok := w.(*os.File); ok {
		if width, height, err := term.GetSize(int(file.Fd())); err == nil && width > 0 && height > 0 {
			return uint16(height), uint16(width)
		}
	}
	return 24, 80
}

// raw hands every key to the guest, Ctrl-C too, until restore is called.
func raw(in *os.File) (restore func(), err error) {
	if !isTerminal(in) {
		return func() {}, nil
	}
	before, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(int(in.Fd()), before) }, nil
}

// followSize calls resize with the terminal's size, which may have changed since
// it was last told, and whenever it changes, until ctx ends.
func followSize(ctx context.Context, w io.Writer, resize func(rows, cols uint16) error) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	go func() {
		defer signal.Stop(changed)
		for resize(size(w)) == nil {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
}
