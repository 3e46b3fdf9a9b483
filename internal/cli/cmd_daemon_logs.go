package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/banger-vm/banger/api"
)

func newDaemonLogsCommand(d *deps) *cobra.Command {
	var o logsOptions
	c := &cobra.Command{
		Use:   "logs",
		Short: "Show bangerd's log, whether it runs or not",
		Args:  none,
		RunE:  func(c *cobra.Command, _ []string) error { return runDaemonLogs(c.Context(), o, d) },
	}
	o.add(c)
	return c
}

func runDaemonLogs(ctx context.Context, o logsOptions, d *deps) error {
	file, err := os.Open(d.paths.Log())
	if errors.Is(err, fs.ErrNotExist) {
		return &api.Error{Kind: api.KindNotFound, Message: "bangerd has no log yet: it has not run", Hint: "every command that needs it starts it, `banger vm list` for one"}
	}
	if err != nil {
		return fmt.Errorf("cannot open bangerd's log: %w", err)
	}
	defer file.Close()
	show := d.printDaemonLog
	if o.json {
		show = func(line string) error { return d.printLog(api.LogLine{Source: "daemon", Text: line}, true) }
	}
	lines := &lineReader{src: bufio.NewReader(file)}
	if !o.follow {
		return lines.rest(show)
	}
	return follow(ctx, file.Name(), func() error { return lines.rest(show) })
}

func (d *deps) printDaemonLog(line string) error {
	_, err := fmt.Fprintln(d.out, line)
	return err
}

// lineReader keeps a line's beginning until its end has been written.
type lineReader struct {
	src  *bufio.Reader
	part string
}

// rest hands every whole line that there is to f.
func (r *lineReader) rest(f func(line string) error) error {
	for {
		text, err := r.src.ReadString('\n')
		r.part += text
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read bangerd's log: %w", err)
		}
		line := strings.TrimSuffix(r.part, "\n")
		r.part = ""
		if err := f(line); err != nil {
			return err
		}
	}
}

// follow calls read now and after every write to the file, until ctx ends.
func follow(ctx context.Context, path string, read func() error) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("cannot watch %s: %w", path, err)
	}
	watch := os.NewFile(uintptr(fd), "inotify")
	defer watch.Close()
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		return fmt.Errorf("cannot watch %s: %w", path, err)
	}
	defer context.AfterFunc(ctx, func() { watch.Close() })()
	for events := make([]byte, 4096); ; {
		if err := read(); err != nil {
			return err
		}
		if _, err := watch.Read(events); err != nil {
			return ctx.Err()
		}
	}
}
