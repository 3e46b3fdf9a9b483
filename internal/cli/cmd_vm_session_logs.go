package cli

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/banger-vm/banger/api"
	"github.com/banger-vm/banger/client"
	"github.com/banger-vm/banger/internal/cli/ui"
	"github.com/banger-vm/banger/internal/config"
)

type vmSessionLogsOptions struct {
	vm, session string
	stream      string
	since       string
	tail        string
	follow      bool
	json        bool
}

func newVMSessionLogsCommand(d *deps) *cobra.Command {
	var o vmSessionLogsOptions
	c := &cobra.Command{
		Use:   "logs <vm> <session>",
		Short: "Show what a session printed, also one that has ended",
		Long: `Show what a session printed, as it printed it: its standard error goes to standard
error, unless it alone was asked for. With --json each piece of output is a line with its
position, time and stream; data is base64.`,
		Args:              sessionArgs(&o.vm, &o.session),
		ValidArgsFunction: d.completeSessions,
		RunE:              func(c *cobra.Command, _ []string) error { return runVMSessionLogs(c.Context(), o, d) },
	}
	c.Flags().StringVar(&o.stream, "stream", "both", "the `stream` to show: stdout, stderr or both")
	c.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what is to come, until the session ends")
	c.Flags().StringVar(&o.since, "since", "", "nothing older than this: a `time` like 10m or 2026-01-02T15:04:05Z")
	c.Flags().StringVar(&o.tail, "tail", "", "at most this `size` before the end")
	addJSON(c, &o.json)
	completeFlag(c, "stream", cobra.FixedCompletions([]cobra.Completion{api.StreamStdout, api.StreamStderr, "both"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func runVMSessionLogs(ctx context.Context, o vmSessionLogsOptions, d *deps) error {
	req, err := o.request(time.Now())
	if err != nil {
		return err
	}
	a, err := d.client.AttachSession(ctx, o.vm, o.session, req, false)
	if err != nil {
		return err
	}
	defer a.Close()
	if o.json {
		err = d.printOutput(a)
	} else {
		errs := io.Writer(d.errs)
		if req.Stream != "" {
			errs = d.out
		}
		_, err = a.Copy(d.out, errs, func(bytes uint64) { tellLoss(d.errs, bytes) })
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (o vmSessionLogsOptions) request(now time.Time) (api.AttachSession, error) {
	req := api.AttachSession{Ended: true, Past: !o.follow}
	switch o.stream {
	case api.StreamStdout, api.StreamStderr:
		req.Stream = o.stream
	case "both", "":
	default:
		return req, bad("stdout, stderr or both", "--stream can't be %q", o.stream)
	}
	if o.tail != "" {
		bytes, err := config.ParseBytes(o.tail)
		if err != nil {
			return req, bad("write it like 64K or 1M", "--tail: %v", err)
		}
		past := uint64(bytes)
		req.Tail = &past
	}
	var err error
	req.Since, err = parseSince(o.since, now)
	return req, err
}

// parseSince reads a moment: so long ago, or a time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, bad("write how long ago, like 10m, or a time like 2026-01-02T15:04:05Z", "--since can't be %q", text)
	}
	return at, nil
}

// outputLine is a piece of a session's output as --json prints it.
type outputLine struct {
	Position uint64    `json:"position"`
	Time     time.Time `json:"time,omitzero"`
	Stream   string    `json:"stream,omitempty"`
	Data     []byte    `json:"data,omitempty"`
	Lost     uint64    `json:"lost_bytes,omitempty"`
}

func (d *deps) printOutput(a *client.Attachment) error {
	for {
		o, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.Live {
			continue
		}
		line := outputLine{Position: o.Position, Lost: o.Lost}
		if o.Lost == 0 {
			line.Time, line.Stream, line.Data = o.Time.UTC(), api.StreamStdout, o.Data
		}
		if o.Stderr {
			line.Stream = api.StreamStderr
		}
		if err := ui.JSONLine(d.out, line); err != nil {
			return err
		}
	}
}
